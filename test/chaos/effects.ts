import { readSync, writeSync } from 'node:fs';
import type { Transcript } from '../../src/qmp/client.js';
import {
  type Action,
  ANSWERS_FD,
  type Answer,
  type Arm,
  NOTES_FD,
  type Note,
  type Order,
} from './protocol.js';

/** Events of QEMU that are effects; the others come in no order that can be relied upon. */
const EVENTS = new Set(['STOP', 'RESUME', 'MIGRATION', 'BLOCK_JOB_READY', 'BLOCK_JOB_COMPLETED']);

/** Tells the driver what this agent does, and stands still where the driver wants it to. */
export class Effects {
  readonly #counts = new Map<string, number>();
  #order: Order = { id: 0, arms: [], disks: undefined, ramBandwidth: 0 };
  #questions = 0;

  /** What the disks of the next incoming QEMU suffer from. */
  get disks(): Order['disks'] {
    return this.#order.disks;
  }

  /** The most that RAM is sent with, in bytes per second; 0 is no limit. */
  get ramBandwidth(): number {
    return this.#order.ramBandwidth;
  }

  /** Begins to count anew, under these orders. */
  obey(order: Order): void {
    this.#order = order;
    this.#counts.clear();
    say({ type: 'ordered', id: order.id });
  }

  /**
   * Notes an effect. Answers what the caller is to do about it; a hold is over by then, because
   * this does not return before the driver has answered.
   */
  at(name: string, detail?: unknown): Action | undefined {
    const nth = (this.#counts.get(name) ?? 0) + 1;
    this.#counts.set(name, nth);
    const arm = this.#order.arms.find((one: Arm) => one.name === name && one.nth === nth);
    const atMs = Date.now();
    const armed = arm !== undefined;
    const question = arm?.action.type === 'hold' ? ++this.#questions : undefined;
    say({ type: 'effect', name, nth, atMs, armed, question, detail });
    if (question === undefined) return arm?.action;
    hear(question);
    return undefined;
  }

  /** An event or a record of the handover. */
  label(migrationId: string, label: string): void {
    say({ type: 'label', migrationId, label });
  }

  /** The port of the driver that stands for a port of another host. */
  route(host: string, port: number, traffic: 'ram' | 'nbd'): number {
    const question = ++this.#questions;
    say({ type: 'route', question, host, port, traffic });
    return hear(question).port ?? port;
  }

  /** Hears what is said to and by one QEMU. */
  transcript(): Transcript {
    const asked = new Map<string, string>();
    return (direction, message) => {
      const { id, event, data, error, ...rest } = message as Record<string, unknown>;
      if (direction === 'sent') {
        const command = String(rest['execute'] ?? rest['exec-oob']);
        asked.set(String(id), command);
        this.at(`qmp ${command} before`, rest['arguments']);
      } else if (typeof event === 'string') {
        const { status = '', device = '' } = (data ?? {}) as Record<string, unknown>;
        if (!EVENTS.has(event)) return;
        this.at(['event', event, status].join(' ').trim(), { device, data });
      } else if (asked.has(String(id))) {
        this.at(`qmp ${asked.get(String(id))} after`, error ? { error } : rest['return']);
      }
    };
  }
}

/** Tells the driver that this agent can be ordered about. */
export function sayReady(): void {
  say({ type: 'ready', epochMs: Date.now() });
}

function say(note: Note): void {
  const bytes = Buffer.from(`${JSON.stringify(note)}\n`);
  for (let at = 0; at < bytes.length; ) at += writeSync(NOTES_FD, bytes, at);
}

/** Waits for the driver's answer to a question; nothing else happens in this process meanwhile. */
function hear(question: number): Answer {
  for (;;) {
    const answer = hearLine();
    if (answer.question === question) return answer;
  }
}

function hearLine(): Answer {
  const bytes = Buffer.alloc(1);
  let line = '';
  for (;;) {
    if (readSync(ANSWERS_FD, bytes) === 0) throw new Error('The driver has gone.');
    if (bytes[0] === 10) return JSON.parse(line) as Answer;
    line += bytes.toString('latin1');
  }
}
