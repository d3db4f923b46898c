import type { HandoverRecord } from './handover-types.js';

/** How a record is written, and what it means. */
export interface RecordRule {
  /** Whether it is on stable storage before anything follows from it. */
  readonly durable: boolean;
  /** One sentence, for docs/journal.md and `drover journal show`. */
  readonly meaning: string;
}

/**
 * Every record of a journal. Those that decide who may run the guest, or what a restart has to
 * clean up, are durable; the others help people and may be lost with the power.
 */
export const JOURNAL_RECORDS = {
  // Of the source.
  STARTED: durable('The source has begun the migration. The guest is its own.'),
  DST_PREPARED: durable('The destination has a QEMU that waits; the source knows its journal.'),
  MIRRORING: casual('The disks are being mirrored.'),
  READY: casual('All disks are mirrored; what the guest writes is mirrored with it.'),
  RAM: casual('The RAM is being sent.'),
  SWITCHING: durable('The source is about to let its QEMU stop the guest.'),
  QCOMPLETED: casual("The source's QEMU has sent everything and stopped for good."),
  COMMITTED: durable('The source has given the guest up; only the destination decides from here.'),
  DONE: durable('The destination has taken the guest. The source is rid of it.'),
  RECLAIMED: durable('The destination has refused, or a person has said so: the guest is back.'),
  RELINQUISHED: durable('A person has said that the destination keeps the guest.'),
  IN_DOUBT: casual('The destination does not answer. The guest stays stopped here.'),
  RESOLVED: durable('A person has resolved the doubt, with what evidence.'),
  // Of the destination.
  PREPARED: durable('The destination is about to make images and a QEMU, of the names given.'),
  EXPORTED: casual('The disks are open for the source to write to.'),
  LOADED: durable('The destination has everything and waits for the commit.'),
  OWNED: durable('The destination has taken the guest and is about to let it run.'),
  RUNNING: durable('The guest runs on the destination.'),
  SOURCE_GONE: durable('The source has said that it will never run the guest again.'),
  // Of both.
  ENDED: casual('Nothing is left to do; how the migration ended, for people and for callers.'),
  ABORTED: durable('The side has ended the migration. The guest is where it was.'),
  SUPERSEDED: durable('A copy of higher rank is known: this one never runs again by itself.'),
} as const satisfies Record<HandoverRecord, RecordRule> & Record<string, RecordRule>;

/** The name of a record. */
export type JournalRecord = keyof typeof JOURNAL_RECORDS;

/** The records that are on stable storage before `Journal.append` resolves. */
export const DURABLE_RECORDS: ReadonlySet<string> = new Set(
  Object.entries(JOURNAL_RECORDS)
    .filter(([, rule]) => rule.durable)
    .map(([name]) => name),
);

function durable(meaning: string): RecordRule {
  return { durable: true, meaning };
}

function casual(meaning: string): RecordRule {
  return { durable: false, meaning };
}
