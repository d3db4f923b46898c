import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { EXIT } from '../../../src/cli/exit-codes.js';
import { Journals } from '../../../src/migration/journals.js';
import { checkBinding, inspectBinding } from '../../../src/process/state-binding.js';
import { StateLock } from '../../../src/process/state-lock.js';
import { cli } from '../../support/cli-stage.js';

const DOMAIN = '6f1c2a34-0000-4000-8000-000000000001';
const ONE = '01931c2a-0000-7000-8000-000000000001';
const TWO = '01931c2a-0000-7000-8000-000000000002';

let folder: string;
let config: string;
let state: string;
let journalPath: string;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'drover-journal-cli-'));
  config = join(folder, 'agent.yaml');
  state = join(folder, 'state');
  writeFileSync(
    config,
    `host: host-a
listen: { address: 127.0.0.1:7443 }
tls: { certificate: c.pem, key: k.pem, ca: ca.pem }
directories: { state: state, run: run }
`,
  );
  const { binding } = await checkBinding(state);
  const journals = new Journals({ folder: join(state, 'journal'), binding });
  const subject = {
    domainUuid: DOMAIN,
    domainName: 'web1',
    sourceHost: 'host-a',
    destinationHost: 'host-b',
    epoch: 0,
    generation: 3,
    attempt: 1,
  };
  {
    await using journal = await journals.create(
      { ...subject, migrationId: ONE, side: 'source' },
      { images: ['root'] },
    );
    journalPath = journal.path;
    await journal.append('STARTED');
    await journal.append('DST_PREPARED', { peer_journal: 'j2', text: 'with \u001b[31m blanks' });
    await journal.append('COMMITTED');
  }
  const other = { ...subject, migrationId: TWO, side: 'destination' } as const;
  await (await journals.create(other)).close();
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

const show = (...args: string[]) => cli(['journal', 'show', '--config', config, ...args]);

function damage(): void {
  const data = readFileSync(journalPath);
  data[data.indexOf('STARTED')] = 0x41;
  writeFileSync(journalPath, data);
}

/** Puts the state where a person has not said that it belongs. */
function makeForeign(): void {
  const copy = join(folder, 'copy');
  copyFileSync(journalPath, copy);
  // Both are there for a moment, so that they cannot have the same inode.
  renameSync(copy, journalPath);
  const path = join(state, 'binding.json');
  writeFileSync(path, readFileSync(path, 'utf8').replace(/"inode": "\d+"/, '"inode": "1"'));
}

describe('drover journal show', () => {
  it('lists the journals of the host', async () => {
    const { stdout, exitCode } = await show();
    const lines = stdout.trimEnd().split('\n');
    expect(lines).toHaveLength(3);
    expect(lines[0]).toMatch(/^MIGRATION +DOMAIN +SIDE +LAST RECORD +AT +HEALTH$/);
    expect(lines[1]).toMatch(new RegExp(`^${ONE}  web1 +source +COMMITTED +.*Z +sound$`));
    expect(lines[2]).toMatch(new RegExp(`^${TWO}  web1 +destination +none +.*Z +sound$`));
    expect(exitCode).toBe(EXIT.ok);
  });

  it('prints the header, what it comes to, and every record of a migration', async () => {
    const { stdout } = await show('--migration', ONE);
    for (const part of [
      `journal            ${journalPath}`,
      'health             sound',
      'says               COMMITTED: The source has given the guest up;',
      `domain             web1 (${DOMAIN})`,
      'destination host   host-b',
      'epoch, generation  0, 3',
      'details            images=["root"]',
      'STARTED*',
      'DST_PREPARED*  peer_journal=j2 text="with \\u001b[31m blanks"',
      'COMMITTED*',
    ]) {
      expect(stdout).toContain(part);
    }
    expect(stdout).not.toContain(TWO);
    expect(stdout).not.toContain('\u001b');
  });

  it('prints all of them, and says of one without records that nothing was done', async () => {
    const { stdout } = await show('--all');
    expect(stdout.match(/^journal {2}/gm)).toHaveLength(2);
    expect(stdout).toContain('Nothing was done yet.');
  });

  it('prints JSON', async () => {
    const { json } = await show('--json', '--migration', ONE);
    expect(json()).toEqual([
      {
        mismatches: [],
        journals: [
          expect.objectContaining({
            path: journalPath,
            migration_id: ONE,
            health: 'sound',
            tail: 'clean',
            header: expect.objectContaining({ source_host: 'host-a', version: 1 }),
            entries: [
              { n: 1, record: 'STARTED', at: expect.any(String) },
              expect.objectContaining({ n: 2, peer_journal: 'j2' }),
              expect.objectContaining({ n: 3, record: 'COMMITTED' }),
            ],
          }),
        ],
      },
    ]);
  });

  it('says plainly that a tail is torn', async () => {
    const data = readFileSync(journalPath);
    writeFileSync(journalPath, data.fill(0, data.lastIndexOf('\n') - 4));
    expect((await show()).stdout).toContain('sound, torn tail');
    const { stdout, exitCode } = await show('--migration', ONE);
    expect(stdout).toMatch(/^health +torn: record 3 at byte \d+ was not written to its end$/m);
    expect(exitCode).toBe(EXIT.ok);
  });

  it('says plainly that a journal is corrupt, prints what is readable, and exits as in doubt', async () => {
    damage();
    const { stdout, exitCode } = await show('--migration', ONE);
    expect(stdout).toMatch(/^health +corrupt: record 1 at byte \d+ is damaged: /m);
    expect(stdout).toContain('source host        host-a');
    expect(exitCode).toBe(EXIT.inDoubt);
    expect((await show()).exitCode).toBe(EXIT.inDoubt);
  });

  it('says plainly that a journal is foreign, and the state', async () => {
    makeForeign();
    const { stdout, stderr, exitCode } = await show('--migration', ONE);
    expect(stdout).toMatch(/^health +foreign: the inode of the journal was \d+ and is \d+$/m);
    expect(stderr).toContain('the inode of the state directory was 1 and is');
    expect(exitCode).toBe(EXIT.inDoubt);
  });

  it('reads a file, and a copy without comparing it with this host', async () => {
    expect((await show(journalPath)).stdout).toContain('health             sound');
    const copy = join(folder, 'copy.log');
    copyFileSync(journalPath, copy);
    const copied = await cli(['journal', 'show', copy]);
    expect(copied).toMatchObject({ exitCode: EXIT.ok });
    expect(copied.stdout).toContain(`migration          ${ONE}`);
    makeForeign();
    expect((await show(journalPath)).exitCode).toBe(EXIT.inDoubt);
  });

  it('changes nothing, also while the agent runs', async () => {
    await using _lock = await StateLock.acquire(state);
    rmSync(join(state, 'binding.json'));
    const before = readFileSync(journalPath);
    expect((await show('--all')).exitCode).toBe(EXIT.ok);
    expect(readFileSync(journalPath).equals(before)).toBe(true);
    expect(existsSync(join(state, 'binding.json'))).toBe(false);
  });

  it('refuses what it cannot read', async () => {
    expect((await show('--migration', '01931c2a-0000-7000-8000-000000000009')).stderr).toContain(
      '[MIGRATION_NOT_FOUND]',
    );
    expect(await show(join(folder, 'nothing.log'))).toMatchObject({ exitCode: EXIT.usage });
    expect(await show('--all', '--migration', ONE)).toMatchObject({ exitCode: EXIT.usage });
    rmSync(state, { recursive: true });
    expect(await show()).toMatchObject({
      exitCode: EXIT.usage,
      stderr: expect.stringContaining('[CONFIG_INVALID]'),
    });
  });
});

describe('drover state accept', () => {
  const accept = (...args: string[]) => cli(['state', 'accept', '--config', config, ...args]);

  it('ends the quarantine of the state and of its journals, and keeps what they say', async () => {
    makeForeign();
    expect((await inspectBinding(state)).mismatches).toHaveLength(1);
    const { stdout, exitCode } = await accept('--host', 'host-a');
    expect(exitCode).toBe(EXIT.ok);
    expect(stdout).toContain(`The state in ${state} is accepted as that of host-a.`);
    expect(stdout).toContain('the inode of the state directory was 1');
    expect(stdout).toContain(`journal ${journalPath}`);
    expect(stdout).not.toContain(TWO);
    expect((await checkBinding(state)).mismatches).toEqual([]);
    expect((await show('--all')).exitCode).toBe(EXIT.ok);
    expect((await show('--migration', ONE)).stdout).toContain('COMMITTED*');
  });

  it('is refused with the name of another host, and without a name', async () => {
    makeForeign();
    for (const args of [['--host', 'host-b'], []]) {
      expect(await accept(...args)).toMatchObject({ exitCode: EXIT.usage });
    }
    expect((await inspectBinding(state)).mismatches).toHaveLength(1);
  });

  it('is refused while the agent runs', async () => {
    makeForeign();
    await using _lock = await StateLock.acquire(state);
    const { exitCode, stderr } = await accept('--host', 'host-a');
    expect(exitCode).toBe(EXIT.failed);
    expect(stderr).toContain(`process ${process.pid} uses the state directory`);
    expect((await inspectBinding(state)).mismatches).toHaveLength(1);
  });

  it('does not make a corrupt journal sound', async () => {
    damage();
    expect(await accept('--host', 'host-a')).toMatchObject({
      exitCode: EXIT.ok,
      stdout: expect.stringContaining('nothing is to accept'),
    });
    expect((await show()).exitCode).toBe(EXIT.inDoubt);
  });
});
