/**
 * How bytes travel: from QEMU to QEMU, or as a stream through both agents, of which only the data
 * door must be reachable.
 */
export type Transport = 'direct' | 'stream';

/** A place at another agent's data door, good for one connection. */
export interface StreamPlace {
  readonly address: string;
  readonly port: number;
  /** What opens it; never logged. */
  readonly ticket: string;
  /** Whose certificate whoever answers there must have. */
  readonly host: string;
}

/** What one carriage carried. */
export interface CarriageTotals {
  /** Bytes from the unix socket to the stream. */
  readonly sentBytes: number;
  /** Bytes from the stream to the unix socket. */
  readonly receivedBytes: number;
}

/** A unix socket joined, or to be joined, with the stream to another agent. */
export interface Carriage {
  /**
   * Resolves when both directions have ended. Rejects with what broke first: a `ReasonedError`
   * where that was the stream. Nobody must await it.
   */
  readonly done: Promise<CarriageTotals>;
  /** Which side was the first to end its half or to break; the other one may only have followed. */
  readonly endedFirst: 'socket' | 'stream' | undefined;
  /** Bytes that had come from the socket when the stream ended its half or broke; 0 until then. */
  readonly answeredBytes: number;
  /** Bytes carried so far, both directions together; at most half a second old. */
  readonly carriedBytes: number;
  /** Breaks both sides at once. Harmless when it is done. */
  reset(reason: Error): void;
}

/** Carries bytes between the unix sockets of this host's QEMUs and other agents. */
export interface Carrier {
  /** Opens this agent's data door unless it is open, and says where it is. */
  door(options: {
    readonly signal: AbortSignal;
  }): Promise<{ readonly address: string; readonly port: number }>;
  /**
   * Joins whoever brings the ticket, which must be that host, with the unix socket at this path.
   * The ticket is good once, and until the carriage is reset.
   */
  expect(ticket: string, host: string, socketPath: string): Carriage;
  /**
   * Connects to the place. When that connection stands, this listens at `socketPath` for exactly
   * one connection and answers.
   *
   * @throws ReasonedError `PEER_UNREACHABLE`, `TLS_PEER_REJECTED`, `PERMISSION_DENIED`, or the
   *   signal's reason
   */
  carry(
    socketPath: string,
    place: StreamPlace,
    options: { readonly signal: AbortSignal },
  ): Promise<Carriage>;
  /** Breaks all carriages and closes the door. Repeating it is harmless. */
  close(): Promise<void>;
}
