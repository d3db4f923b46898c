/** A signal that follows others until it is disposed of. */
export interface LinkedSignal extends Disposable {
  readonly signal: AbortSignal;
}

/**
 * Combines signals: the result aborts with the reason of the first that does. Dispose of it when
 * the work ends, because a long-lived signal would otherwise gather one listener for every piece of
 * work done under it.
 */
export function linkSignals(...signals: readonly (AbortSignal | undefined)[]): LinkedSignal {
  const controller = new AbortController();
  const undo: (() => void)[] = [];
  for (const signal of signals) {
    if (!signal) continue;
    if (signal.aborted) {
      controller.abort(signal.reason);
      break;
    }
    const onAbort = () => controller.abort(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    undo.push(() => signal.removeEventListener('abort', onAbort));
  }
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      for (const step of undo) step();
    },
  };
}

/**
 * Adds a time limit to a signal. The error is made only when the limit passes and becomes
 * `signal.reason`, so it can name what was waited for. `limitMs` below 0 counts as 0; `Infinity`
 * means no limit.
 */
export function withTimeout(
  signal: AbortSignal | undefined,
  limitMs: number,
  error: () => Error,
): LinkedSignal {
  const limit = new AbortController();
  const timer = Number.isFinite(limitMs)
    ? setTimeout(() => limit.abort(error()), Math.max(0, limitMs))
    : undefined;
  const linked = linkSignals(signal, limit.signal);
  return {
    signal: linked.signal,
    [Symbol.dispose]: () => {
      clearTimeout(timer);
      linked[Symbol.dispose]();
    },
  };
}

/** Adds a time limit that begins when a promise resolves; one that rejects begins none. */
export function withDeadlineAfter(
  begin: Promise<unknown>,
  limitMs: number,
  signal: AbortSignal,
  error: () => Error,
): LinkedSignal {
  const limit = new AbortController();
  const linked = linkSignals(signal, limit.signal);
  let timer: NodeJS.Timeout | undefined;
  let over = false;
  begin.then(
    () => {
      if (!over) timer = setTimeout(() => limit.abort(error()), limitMs);
    },
    () => undefined,
  );
  return {
    signal: linked.signal,
    [Symbol.dispose]: () => {
      over = true;
      clearTimeout(timer);
      linked[Symbol.dispose]();
    },
  };
}

/**
 * Waits for a promise, but no longer than the signal allows: rejects with `signal.reason` on abort.
 * The promise itself goes on; a rejection that comes after the abort is swallowed, because nobody
 * is left to hear it.
 */
export function untilAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise;
  return new Promise<T>((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    const done = () => signal.removeEventListener('abort', onAbort);
    promise.then(
      (value) => {
        done();
        resolve(value);
      },
      (error: unknown) => {
        done();
        reject(error);
      },
    );
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
}
