import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Audit } from '../../../src/agent/audit.js';
import type { AuditEvent, AuditQuery } from '../../../src/util/audit.js';
import { memoryLog } from '../../support/fake-agent.js';

type Event = Omit<AuditEvent, 'time'>;

const ALL: AuditQuery = {
  caller: '',
  action: '',
  subject: '',
  decision: undefined,
  since: undefined,
  before: undefined,
};

function event(change: Partial<Event> = {}): Event {
  return {
    caller: 'operator/alice',
    action: '/drover.v1.DomainService/StartDomain',
    decision: 'ALLOWED',
    reason: 'OK',
    subject: 'web',
    message: '',
    ...change,
  };
}

describe('the audit of an agent', () => {
  let folder: string;
  let nowMs: number;
  const opened: Audit[] = [];
  const log = memoryLog();

  beforeEach(async () => {
    folder = join(await mkdtemp(join(tmpdir(), 'drover-audit-')), 'audit');
    nowMs = 0;
    log.lines.length = 0;
  });
  afterEach(async () => {
    for (const audit of opened.splice(0)) await audit.close();
    await rm(join(folder, '..'), { recursive: true, force: true });
  });

  function open(fileBytes = 1024 * 1024, where = folder): Audit {
    const tools = { folder: where, fileBytes, self: 'host/a', log, nowMs: () => nowMs };
    const audit = new Audit(tools);
    opened.push(audit);
    return audit;
  }

  it('answers what was recorded, the newest first, by every filter and from page to page', async () => {
    const audit = open();
    audit.record(event());
    audit.record(event({ caller: 'host/b', decision: 'DENIED', reason: 'PERMISSION_DENIED' }));
    audit.record(event({ action: 'AGENT_STARTED', decision: 'EVENT', subject: '' }));
    audit.record(event({ subject: 'db' }));
    const list = (query: Partial<AuditQuery>, limit = 10) =>
      audit.list({ ...ALL, ...query }, limit).map(({ sequence }) => sequence);
    expect(list({})).toEqual([4, 3, 2, 1]);
    expect(list({}, 2)).toEqual([4, 3]);
    expect(list({ before: 3 })).toEqual([2, 1]);
    expect(list({ caller: 'host/b' })).toEqual([2]);
    expect(list({ decision: 'EVENT' })).toEqual([3]);
    expect(list({ action: 'StartDomain' })).toEqual([4, 2, 1]);
    expect(list({ action: 'Domain' })).toEqual([]);
    expect(list({ subject: 'db' })).toEqual([4]);
    expect(list({ since: new Date(Date.now() + 60_000) })).toEqual([]);
  });

  it('has it again after a restart, from files that only their owner can read', async () => {
    const first = open();
    first.record(event());
    first.record(event({ decision: 'DENIED', reason: 'PERMISSION_DENIED' }));
    await first.close();
    expect((await readdir(folder)).sort()).toEqual(['calls.jsonl', 'denied.jsonl']);
    expect((await stat(folder)).mode & 0o777).toBe(0o700);
    expect((await stat(join(folder, 'calls.jsonl'))).mode & 0o777).toBe(0o600);
    const second = open();
    await second.load();
    second.record(event({ subject: 'later' }));
    expect(second.list(ALL, 10)).toMatchObject([
      { sequence: 3, subject: 'later' },
      { sequence: 2, decision: 'DENIED' },
      { sequence: 1, decision: 'ALLOWED', time: expect.any(Date) },
    ]);
  });

  it('logs each event as one line', async () => {
    const audit = open();
    audit.record(event({ reason: 'DOMAIN_BUSY', message: 'It is busy.' }));
    audit.record(event({ decision: 'DENIED', reason: 'PERMISSION_DENIED' }));
    await audit.flush();
    expect(log.lines).toMatchObject([
      { level: 'info', message: 'call allowed', fields: { audit: true, reason: 'DOMAIN_BUSY' } },
      { level: 'warn', message: 'call denied', fields: { caller: 'operator/alice' } },
    ]);
  });

  it('lets nobody forge a line, move the cursor of a terminal, or write without end', async () => {
    const audit = open();
    const evil = 'web\n{"sequence":99}\u001b[2J\u202egnp.exe';
    audit.record(event({ subject: evil, message: 'x'.repeat(100_000), caller: '\0'.repeat(500) }));
    await audit.flush();
    const lines = (await readFile(join(folder, 'calls.jsonl'), 'utf8')).trimEnd().split('\n');
    expect(lines).toHaveLength(1);
    const [kept] = audit.list(ALL, 1);
    expect(kept?.subject).toBe('web {"sequence":99}?[2J?gnp.exe');
    expect(kept?.message).toHaveLength(300);
    expect(kept?.caller).toBe(`${'?'.repeat(127)}…`);
  });

  it('keeps two files of each kind and no more, however much comes', async () => {
    const audit = open(64 * 1024);
    for (let batch = 0; batch < 20; batch++) {
      nowMs += 61_000;
      for (let i = 0; i < 200; i++) {
        audit.record(event({ action: `A${i}`, message: 'm'.repeat(300) }));
      }
      await audit.flush();
    }
    const names = (await readdir(folder)).sort();
    expect(names).toEqual(['calls.1.jsonl', 'calls.jsonl']);
    for (const name of names) expect((await stat(join(folder, name))).size).toBeLessThan(130_000);
    const next = open(64 * 1024);
    await next.load();
    expect(next.list(ALL, 1)[0]?.sequence).toBe(4_000);
  });

  it('counts a flood of denials instead of writing it, and what was done stays', async () => {
    const audit = open();
    audit.record(event({ subject: 'precious' }));
    const denial = event({ caller: 'host/evil', decision: 'DENIED', reason: 'PERMISSION_DENIED' });
    for (let i = 0; i < 100_000; i++) audit.record({ ...denial, subject: `s${i}` });
    for (let i = 0; i < 100_000; i++) audit.record({ ...denial, caller: `10.0.0.${i}` });
    nowMs = 60_000;
    await audit.close();
    const denied = audit.list({ ...ALL, decision: 'DENIED' }, 10_000);
    // Ten of the first caller, one of each of those that are told apart, ten of all others, two sums.
    expect(denied).toHaveLength(10 + 99 + 10 + 2);
    expect(denied.map(({ message }) => message)).toContain(
      '99990 more within a minute, not told one by one.',
    );
    expect(audit.list({ ...ALL, subject: 'precious' }, 1)).toHaveLength(1);
    expect((await stat(join(folder, 'denied.jsonl'))).size).toBeLessThan(64 * 1024);
  });

  it('goes on where nothing can be written, and says how much was lost once it can', async () => {
    // The folder cannot be made where a file is.
    await writeFile(join(folder, '..', 'full'), '');
    const audit = open(1024 * 1024, join(folder, '..', 'full', 'audit'));
    audit.record(event());
    audit.record(event({ subject: 'second' }));
    await audit.flush();
    expect(log.lines).toContainEqual(
      expect.objectContaining({ level: 'error', message: 'the audit cannot be written' }),
    );
    expect(audit.list(ALL, 10)).toHaveLength(2);
    await rm(join(folder, '..', 'full'));
    audit.record(event({ subject: 'third' }));
    await audit.flush();
    expect(audit.list({ ...ALL, action: 'AUDIT_DROPPED' }, 1)).toMatchObject([
      { message: '2 events could not be written.', decision: 'EVENT', caller: 'host/a' },
    ]);
  });

  it('reads past lines that were cut off, and lines that are none of its own', async () => {
    const first = open();
    first.record(event());
    await first.close();
    const path = join(folder, 'calls.jsonl');
    const line = await readFile(path, 'utf8');
    await writeFile(path, `${line}${line.slice(0, 40)}`);
    const second = open();
    await second.load();
    second.record(event({ subject: 'after' }));
    await second.close();
    const third = open();
    await third.load();
    expect(third.list(ALL, 10).map(({ subject }) => subject)).toEqual(['after', 'web']);
  });

  it('costs a call a few microseconds', () => {
    const audit = open();
    const rounds = 20_000;
    for (let i = 0; i < 2_000; i++) audit.record(event({ action: `warm ${i % 50}` }));
    const startedMs = performance.now();
    for (let i = 0; i < rounds; i++) audit.record(event({ action: `A${i % 50}` }));
    const costUs = ((performance.now() - startedMs) * 1_000) / rounds;
    expect(costUs).toBeLessThan(100);
    if (process.env['DROVER_MEASURE']) process.stdout.write(`record: ${costUs.toFixed(2)} us\n`);
  });
});
