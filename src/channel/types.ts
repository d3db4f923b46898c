/**
 * A two-way stream of bytes with half-close, whatever carries it. Back-pressure is in the promises:
 * a `write` that has not resolved must not be followed by another.
 */
export interface ByteStream {
  /** The bytes that arrive, until the other side ends its half. A reset throws. */
  readonly incoming: AsyncIterable<Uint8Array>;
  /** Resolves when more may be written. Rejects after a reset. */
  write(chunk: Uint8Array): Promise<void>;
  /** Ends this side's half; the other half goes on. */
  end(): Promise<void>;
  /** Ends both halves at once; the other side sees a reset. Repeating it is harmless. */
  reset(reason: Error): void;
}

/** The largest piece in which bytes travel between agents. */
export const CHUNK_BYTES = 256 * 1024;
