import { destination, type Logger, pino, stdTimeFunctions } from 'pino';
import { ReasonedError } from '../util/reasoned-error.js';
import { limitedLines } from './log-rate.js';

export type { Logger } from 'pino';

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
type Level = (typeof LEVELS)[number];

/** Where the name of the level stands in the environment. */
const LEVEL_VARIABLE = 'DROVER_LOG';

/**
 * Fields that open something: never logged, wherever they stand in the first three levels of a
 * line.
 */
const SECRETS = ['psk', 'key', 'ticket'];

/** What logs are written to. */
interface LogStream {
  write(line: string): unknown;
}

/**
 * Makes the agent's logger: one JSON object a line, on stderr. The level is that of DROVER_LOG,
 * else `info`.
 *
 * @param stream Where to write instead of stderr.
 * @throws ReasonedError `CONFIG_INVALID` when DROVER_LOG names no level
 */
export function createLogger(
  fields: { readonly host: string },
  env: Readonly<Record<string, string | undefined>>,
  stream?: LogStream,
): Logger {
  return pino(
    {
      base: { ...fields },
      level: readLevel(env[LEVEL_VARIABLE]),
      messageKey: 'message',
      timestamp: stdTimeFunctions.isoTime,
      hooks: { logMethod: limitedLines() },
      formatters: { level: (label) => ({ level: label }) },
      redact: {
        paths: SECRETS.flatMap((name) => [name, `*.${name}`, `*.*.${name}`]),
        censor: '<redacted>',
      },
    },
    // Synchronous: what was logged before a crash is what one wants to read.
    stream ?? destination({ fd: 2, sync: true }),
  );
}

function readLevel(text: string | undefined): Level {
  if (!text) return 'info';
  const level = LEVELS.find((known) => known === text.toLowerCase());
  if (level) return level;
  throw new ReasonedError(
    'CONFIG_INVALID',
    `${LEVEL_VARIABLE} is "${text}"; it must be one of ${LEVELS.join(', ')}.`,
    { hint: `Correct ${LEVEL_VARIABLE} or unset it.` },
  );
}
