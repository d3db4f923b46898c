import type {
  AuditDecision,
  AuditEvent,
  AuditLog,
  AuditQuery,
  AuditReader,
  KeptAuditEvent,
} from '../util/audit.js';
import type { Log } from '../util/log.js';
import { plainText } from '../util/plain-text.js';
import { type LeftOut, RateLimit } from '../util/rate-limit.js';
import { RotatingFile } from './audit-files.js';

/** How many events ListAuditEvents can answer of calls and events, and as many of denials. */
const KEPT_EVENTS = 5_000;
/** How many may wait to be written. */
const QUEUE_LIMIT = 4_096;
/** Events are written together, this long after the first of them. */
const WRITE_BEHIND_MS = 100;
const WINDOW_MS = 60_000;
/** Characters of each field. */
const LENGTHS = { caller: 128, action: 128, reason: 64, subject: 128, message: 300 } as const;

/** How many of one caller and action within a minute are told one by one. */
const RATES = {
  denied: { perKey: 10, windowMs: WINDOW_MS, keys: 100 },
  failed: { perKey: 60, windowMs: WINDOW_MS, keys: 1_000 },
  done: { perKey: 1_000, windowMs: WINDOW_MS, keys: 1_000 },
} as const;

/** What needs no look at each of its characters. */
const PLAIN = /^[\x20-\x7e]*$/;

/** What keeping the record needs. */
export interface AuditTools {
  /** Made where it is not there, readable by its owner only. */
  readonly folder: string;
  /** Of each of the four files. */
  readonly fileBytes: number;
  /** Who acts where the agent itself does: `host/<name>`. */
  readonly self: string;
  readonly log: Log;
  /** Milliseconds that never go back. */
  readonly nowMs?: () => number;
}

/**
 * The record of who did what to this host: in memory for ListAuditEvents, as lines in two files
 * that rotate, and in the log. Denials are kept apart, so that no flood of them can push out what
 * was done.
 *
 * Recording costs a few microseconds and never waits: files and log are written behind. Where the
 * disk fails, events are dropped and counted, and the count is recorded when it works again.
 */
export class Audit implements AuditLog, AuditReader {
  readonly #tools: AuditTools;
  readonly #nowMs: () => number;
  readonly #rates: Readonly<Record<keyof typeof RATES, RateLimit<Omit<AuditEvent, 'time'>>>>;
  readonly #kept = { calls: [] as KeptAuditEvent[], denied: [] as KeptAuditEvent[] };
  readonly #files: { readonly calls: RotatingFile; readonly denied: RotatingFile };
  #sequence = 0;
  #queue: KeptAuditEvent[] = [];
  #dropped = 0;
  #failing = false;
  #closed = false;
  #writing: Promise<void> = Promise.resolve();
  #writeTimer: NodeJS.Timeout | undefined;
  readonly #sweepTimer: NodeJS.Timeout;

  constructor(tools: AuditTools) {
    this.#tools = tools;
    this.#nowMs = tools.nowMs ?? (() => performance.now());
    const file = (name: string) => new RotatingFile(tools.folder, name, tools.fileBytes);
    this.#files = { calls: file('calls'), denied: file('denied') };
    this.#rates = {
      denied: new RateLimit(RATES.denied),
      failed: new RateLimit(RATES.failed),
      done: new RateLimit(RATES.done),
    };
    this.#sweepTimer = setInterval(() => this.#sweep(this.#nowMs()), WINDOW_MS / 4).unref();
  }

  /** Reads what earlier lives of the agent have recorded, as far as ListAuditEvents answers it. */
  async load(): Promise<void> {
    for (const name of ['calls', 'denied'] as const) {
      const lines = await this.#files[name].read().catch((error: unknown) => {
        this.#tools.log.warn({ err: error }, 'the audit cannot be read');
        return [];
      });
      const events = lines.slice(-KEPT_EVENTS - 2).flatMap(readLine);
      this.#kept[name].unshift(...events.slice(-KEPT_EVENTS));
      this.#sequence = Math.max(this.#sequence, events.at(-1)?.sequence ?? 0);
    }
  }

  record(event: Omit<AuditEvent, 'time'>): void {
    try {
      const { decision, caller, action, reason } = event;
      const failed = decision === 'ALLOWED' && reason !== 'OK';
      const rate = decision === 'DENIED' ? 'denied' : failed ? 'failed' : 'done';
      const key = `${caller}\n${action}`.slice(0, 300);
      if (this.#rates[rate].take(key, event, this.#nowMs())) this.#add(event);
    } catch {
      this.#dropped++;
    }
  }

  list(query: AuditQuery, limit: number): KeptAuditEvent[] {
    const { calls, denied } = this.#kept;
    const found: KeptAuditEvent[] = [];
    let [call, denial] = [calls.length - 1, denied.length - 1];
    while (found.length < limit && (call >= 0 || denial >= 0)) {
      const [one, other] = [calls[call], denied[denial]];
      const first = !other || (one && one.sequence > other.sequence) ? one : other;
      if (first === one) call--;
      else denial--;
      if (first && fits(first, query)) found.push(first);
    }
    return found;
  }

  /** Writes what waits. Resolves when it is written or dropped; never rejects. */
  flush(): Promise<void> {
    clearTimeout(this.#writeTimer);
    this.#writeTimer = undefined;
    this.#writing = this.#writing.then(() => this.#write());
    return this.#writing;
  }

  /** Tells what was left out so far, writes what waits and closes the files for good. */
  async close(): Promise<void> {
    clearInterval(this.#sweepTimer);
    this.#sweep(Number.POSITIVE_INFINITY);
    await this.flush();
    // Writing may have told what was lost before.
    await this.flush();
    this.#closed = true;
    const { calls, denied } = this.#files;
    await Promise.allSettled([calls.close(), denied.close()]);
  }

  #add(event: Omit<AuditEvent, 'time'>): void {
    const kept: KeptAuditEvent = {
      sequence: ++this.#sequence,
      time: new Date(),
      caller: clean(event.caller, LENGTHS.caller),
      action: clean(event.action, LENGTHS.action),
      decision: event.decision,
      reason: clean(event.reason, LENGTHS.reason),
      subject: clean(event.subject, LENGTHS.subject),
      message: clean(event.message, LENGTHS.message),
    };
    const list = this.#kept[listOf(event.decision)];
    list.push(kept);
    // Moving thousands of them with every event would cost more than the event itself.
    if (list.length > KEPT_EVENTS * 1.1) list.splice(0, list.length - KEPT_EVENTS);
    if (this.#queue.length >= QUEUE_LIMIT) this.#dropped++;
    else this.#queue.push(kept);
    if (!this.#closed)
      this.#writeTimer ??= setTimeout(() => void this.flush(), WRITE_BEHIND_MS).unref();
  }

  async #write(): Promise<void> {
    const batch = this.#queue;
    this.#queue = [];
    for (const event of batch) this.#tell(event);
    for (const name of ['calls', 'denied'] as const) {
      const events = batch.filter(({ decision }) => listOf(decision) === name);
      if (events.length === 0) continue;
      try {
        await this.#files[name].append(
          events.map((event) => `${JSON.stringify(event)}\n`).join(''),
        );
        this.#failing = false;
      } catch (error) {
        this.#fail(name, events.length, error);
      }
    }
    if (this.#failing || this.#dropped === 0) return;
    const count = this.#dropped;
    this.#dropped = 0;
    this.#add({
      caller: this.#tools.self,
      action: 'AUDIT_DROPPED',
      decision: 'EVENT',
      reason: 'OK',
      subject: '',
      message: `${count} events could not be written.`,
    });
  }

  #fail(name: 'calls' | 'denied', count: number, error: unknown): void {
    this.#dropped += count;
    // What was opened may be what fails.
    void this.#files[name].close().catch(() => undefined);
    if (!this.#failing) this.#tools.log.error({ err: error }, 'the audit cannot be written');
    this.#failing = true;
  }

  #tell({ time, message, ...fields }: KeptAuditEvent): void {
    const line = { audit: true, at: time.toISOString(), ...fields, detail: message };
    if (fields.decision === 'DENIED') this.#tools.log.warn(line, 'call denied');
    else this.#tools.log.info(line, fields.decision === 'EVENT' ? 'event' : 'call allowed');
  }

  #sweep(nowMs: number): void {
    for (const rate of Object.values(this.#rates)) {
      for (const left of rate.sweep(nowMs)) this.#add(sumUp(left));
    }
  }
}

function sumUp({ sample, count }: LeftOut<Omit<AuditEvent, 'time'>>): Omit<AuditEvent, 'time'> {
  const message = `${count} more within a minute, not told one by one.`;
  return { ...sample, subject: '', message };
}

function listOf(decision: AuditDecision): 'calls' | 'denied' {
  return decision === 'DENIED' ? 'denied' : 'calls';
}

function clean(text: string, limit: number): string {
  return text.length <= limit && PLAIN.test(text) ? text : plainText(text, limit);
}

function fits(event: KeptAuditEvent, query: AuditQuery): boolean {
  const { caller, action, subject, decision, since, before } = query;
  return (
    (before === undefined || event.sequence < before) &&
    (since === undefined || event.time >= since) &&
    (decision === undefined || event.decision === decision) &&
    (caller === '' || event.caller === caller) &&
    (subject === '' || event.subject === subject) &&
    (action === '' || event.action === action || event.action.endsWith(`/${action}`))
  );
}

/** One line of a file; nothing for a line that was cut off. */
function readLine(line: string): KeptAuditEvent[] {
  try {
    const event = JSON.parse(line) as Record<string, unknown>;
    const text = (name: keyof typeof LENGTHS) => clean(String(event[name] ?? ''), LENGTHS[name]);
    const time = new Date(String(event['time']));
    const { sequence, decision } = event;
    if (!Number.isSafeInteger(sequence) || Number.isNaN(time.getTime())) return [];
    if (decision !== 'ALLOWED' && decision !== 'DENIED' && decision !== 'EVENT') return [];
    return [
      {
        sequence: sequence as number,
        time,
        caller: text('caller'),
        action: text('action'),
        decision,
        reason: text('reason'),
        subject: text('subject'),
        message: text('message'),
      },
    ];
  } catch {
    return [];
  }
}
