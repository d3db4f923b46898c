/*
 * What one caller, and all of them together, may take of the agent's gRPC side. What operators may
 * want to change is in ConnectionLimits; the rest is named here.
 */

/** Limits of the door on the network that the configuration can change. */
export interface ConnectionLimits {
  /** Connections in all; further ones are closed at once. */
  readonly connections: number;
  /** The same from one IP address. */
  readonly connectionsPerAddress: number;
  /**
   * Calls under way at once by one certificate, watches included. Calls of a handover that has
   * begun are never refused for it.
   */
  readonly callsPerCaller: number;
  /** Milliseconds after which a connection without a call is closed; callers connect again. */
  readonly idleMs: number;
  /**
   * Milliseconds from the connection to its first call, TLS and HTTP/2 included. It is closed then.
   */
  readonly connectMs: number;
  /** Milliseconds from the headers of a call to the whole of its first message. */
  readonly requestMs: number;
}

export const DEFAULT_CONNECTION_LIMITS: ConnectionLimits = {
  connections: 1024,
  connectionsPerAddress: 256,
  callsPerCaller: 256,
  idleMs: 600_000,
  connectMs: 10_000,
  requestMs: 10_000,
};

/** Bytes of one message to an agent; a launch spec is the largest that there is. */
export const MESSAGE_LIMIT_BYTES = 1024 * 1024;

/** Calls under way at once on one connection; HTTP/2 makes callers wait with further ones. */
export const STREAMS_PER_CONNECTION = 256;

/**
 * Calls of one certificate whose first message is still coming: each may hold a message's worth of
 * memory.
 */
export const UNFINISHED_PER_CALLER = 64;

/** MiB that HTTP/2 may keep for one connection before it refuses further streams. */
export const SESSION_MEMORY_MIB = 64;

/** Connections at the data door that have not shown a good ticket yet, in all. */
export const UNADMITTED = 64;

/** The same from one IP address. */
export const UNADMITTED_PER_ADDRESS = 32;

/** Milliseconds from the connection at the data door to its ticket, TLS included. */
export const TICKET_LIMIT_MS = 10_000;
