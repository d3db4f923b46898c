import type { Log } from '../util/log.js';

/**
 * A log of JSON lines in the shape of the agent's own. The agent's logger would double what a
 * process that does almost nothing takes of the host's memory.
 */
export function rescueLog(write: (line: string) => void, fields: object = {}): Log {
  const at = (level: string) => (more: object, message: string) => {
    const line = { level, time: new Date().toISOString(), ...fields, ...plain(more), message };
    write(`${JSON.stringify(line)}\n`);
  };
  return {
    debug: () => undefined,
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    child: (more) => rescueLog(write, { ...fields, ...more }),
  };
}

/** Errors have nothing that JSON would show. */
function plain(fields: object): object {
  const { err, ...rest } = fields as { err?: unknown };
  if (!(err instanceof Error)) return fields;
  const { name, message, stack } = err;
  const { reason } = err as { reason?: unknown };
  return { ...rest, err: { type: name, message, stack, ...(reason ? { reason } : {}) } };
}
