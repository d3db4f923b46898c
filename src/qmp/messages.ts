import type { JsonObject } from './codec.js';
import { QmpProtocolError } from './errors.js';
import type { QmpEvent } from './event-listener.js';

/** What QEMU says of itself when a client connects. */
export interface Greeting {
  readonly version: { readonly major: number; readonly minor: number; readonly micro: number };
  readonly oob: boolean;
}

/** @throws QmpProtocolError where it is no greeting of QEMU */
export function parseGreeting(message: JsonObject): Greeting {
  const greeting = message['QMP'] as
    | { version?: { qemu?: Partial<Greeting['version']> }; capabilities?: unknown }
    | undefined;
  const version = greeting?.version?.qemu;
  if (!version || !Array.isArray(greeting.capabilities)) {
    throw new QmpProtocolError('What listens on the monitor socket does not greet like QEMU.');
  }
  const { major = 0, minor = 0, micro = 0 } = version;
  return { version: { major, minor, micro }, oob: greeting.capabilities.includes('oob') };
}

/** An event as the wire has it. */
export function parseEvent(message: JsonObject): QmpEvent {
  const timestamp = message['timestamp'] as { seconds?: number; microseconds?: number } | undefined;
  return {
    name: message['event'],
    data: message['data'] ?? {},
    timestampUs: (timestamp?.seconds ?? 0) * 1_000_000 + (timestamp?.microseconds ?? 0),
  } as QmpEvent;
}
