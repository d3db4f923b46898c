import type { LogFn, Logger } from 'pino';
import { RateLimit } from '../util/rate-limit.js';

/** Lines of one message within a window. Whoever causes more of them fills no disk. */
const RATE = { perKey: 200, windowMs: 10_000, keys: 500 } as const;
/** Debug and trace are for those who have asked for all of it. */
const INFO = 30;

interface Line {
  readonly logger: Logger;
  readonly method: LogFn;
  readonly message: string;
}

/**
 * Lets through only so many lines of each message, whichever child logs them, and says behind how
 * many were left out. Lines of the audit have a limit of their own.
 */
export function limitedLines(nowMs: () => number = () => performance.now()) {
  const rate = new RateLimit<Line>(RATE);
  const sweep = () => {
    for (const { sample, count } of rate.sweep(nowMs())) {
      const { logger, method, message } = sample;
      method.call(logger, { left_out: count, of: message }, 'lines were left out of the log');
    }
  };
  setInterval(sweep, RATE.windowMs).unref();
  return function limited(
    this: Logger,
    values: Parameters<LogFn>,
    method: LogFn,
    level: number,
  ): void {
    const [fields, text] = values as unknown[];
    const audit = (fields as { audit?: unknown } | undefined)?.audit === true;
    if (level >= INFO && !audit) {
      const message = String(typeof fields === 'string' ? fields : text);
      if (!rate.take(message, { logger: this, method, message }, nowMs())) return;
    }
    method.apply(this, values);
  };
}
