/**
 * What the layers below the agent log with; pino's loggers are of this shape. Fields are snake_case
 * with their unit last, the message is a constant short sentence.
 */
export interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  child(fields: object): Log;
}
