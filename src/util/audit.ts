/** Whether a call was let through, was refused, or something happened that nobody called for. */
export type AuditDecision = 'ALLOWED' | 'DENIED' | 'EVENT';

/** One line of the record of who did what to this host. */
export interface AuditEvent {
  time: Date;
  /** Role and name (`operator/alice`), or the address of a caller that proved no identity. */
  caller: string;
  /** The method's path, or the name of what happened (`QEMU_CRASHED_WHILE_RECEIVING`). */
  action: string;
  decision: AuditDecision;
  /** A stable code: `OK`, or the reason with which the call was refused or failed. */
  reason: string;
  /** The migration's id, or the domain's UUID or name; '' where there is none. */
  subject: string;
  /** One sentence for people; '' where the rest says it all. */
  message: string;
}

/** Takes what must be on record. */
export interface AuditLog {
  /** Queues the event. Never throws and never waits; strings are cut and cleaned, not trusted. */
  record(event: Omit<AuditEvent, 'time'>): void;
}

/** Drops everything: for tests, and for tools that run without an agent. */
export const noAudit: AuditLog = { record: () => undefined };

/** An event as it is kept. */
export interface KeptAuditEvent extends AuditEvent {
  /** Counts the events of this host; what was left out has none. */
  readonly sequence: number;
}

/** Which events are asked for; what is undefined or empty does not matter. */
export interface AuditQuery {
  readonly caller: string;
  /** The whole action, or the part behind its last slash. */
  readonly action: string;
  readonly subject: string;
  readonly decision: AuditDecision | undefined;
  readonly since: Date | undefined;
  /** Only events with a lower sequence number. */
  readonly before: number | undefined;
}

/** What callers may read of the record. */
export interface AuditReader {
  /** The newest `limit` events that fit, newest first. */
  list(query: AuditQuery, limit: number): readonly KeptAuditEvent[];
}
