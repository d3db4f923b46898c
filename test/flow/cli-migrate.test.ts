import { describe, expect, it, onTestFinished } from 'vitest';
import type { CliEnvironment } from '../../src/cli/session.js';
import type { Migration } from '../../src/gen/drover/v1/migration.js';
import type { StartMigrationRequest } from '../../src/gen/drover/v1/migration_service.js';
import { deferred } from '../../src/util/deferred.js';
import { ReasonedError } from '../../src/util/reasoned-error.js';
import { cli, type FakeServices, startFakeServices } from '../support/cli-stage.js';
import {
  cancelled,
  failed,
  inDoubt,
  migrationWith,
  mirroring,
  precopying,
  preparing,
  succeeded,
} from '../support/migrations.js';

const ID = preparing.migrationId;

type Migrations = NonNullable<FakeServices['migrations']>;

async function withAgent(migrations: Migrations): Promise<string> {
  const server = await startFakeServices({ migrations });
  onTestFinished(() => server[Symbol.asyncDispose]());
  return server.address;
}

/** An agent that accepts every migration, and on a watch sends these snapshots and ends. */
function sending(...snapshots: Migration[]): Migrations {
  return {
    startMigration: async () => ({ migration: preparing }),
    getMigration: async () => ({ migration: snapshots[0] ?? preparing }),
    async *watchMigration() {
      for (const migration of snapshots) yield { migration };
    },
  };
}

/** The same, but the watch stays open until its caller has gone. */
function hanging(gone: () => void, ...snapshots: Migration[]): Migrations {
  return {
    ...sending(...snapshots),
    async *watchMigration(_request, { signal }) {
      for (const migration of snapshots) yield { migration };
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      gone();
    },
  };
}

describe('drover migrate', () => {
  it('asks for what its options say and returns when it is accepted', async () => {
    const requests: StartMigrationRequest[] = [];
    const agent = await withAgent({
      startMigration: async (request) => {
        requests.push(request);
        return { migration: preparing };
      },
    });
    const plain = await cli(['migrate', 'web1', 'host-b', '--agent', agent]);
    expect(plain.stdout).toBe(
      `web1 is on its way to host-b: migration ${ID}.\nFollow it with \`drover watch ${ID}\`.\n`,
    );
    const limits = ['--downtime-limit', '100ms', '--max-bandwidth', '100MiB/s', '--id', ID];
    limits.push('--weight', '40');
    const { json } = await cli([
      'migrate',
      'web1',
      'host-b',
      ...limits,
      '--agent',
      agent,
      '--json',
    ]);
    expect(json()).toMatchObject([{ migration: { migration_id: ID, state: 'STATE_RUNNING' } }]);
    const common = { domain: 'web1', destinationHost: 'host-b' };
    const nothing = { migrationId: '', downtimeLimitMs: 0, maxBandwidthBytesPerS: 0, weight: 0 };
    const maxBandwidthBytesPerS = 100 * 1024 ** 2;
    const all = { migrationId: ID, downtimeLimitMs: 100, maxBandwidthBytesPerS, weight: 40 };
    expect(requests).toMatchObject([
      { ...common, ...nothing },
      { ...common, ...all },
    ]);
  });

  it.each([
    [['--downtime-limit', '300']],
    [['--downtime-limit', '2m']],
    [['--downtime-limit', '0ms']],
    [['--max-bandwidth', '100MiB']],
    [['--max-bandwidth', '1Gb/s']],
    [['--max-bandwidth', '0/s']],
    [['--weight', '0']],
    [['--weight', '101']],
    [['--weight', 'much']],
    [['--id', 'first']],
    [['--nonsense']],
    [['third']],
  ])('refuses %j with exit code 2 before it asks the agent', async (options) => {
    const { exitCode, stdout, stderr } = await cli(['migrate', 'web1', 'host-b', ...options]);
    expect([exitCode, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/^error: .* \[REQUEST_INVALID\]\n/);
  });

  it('with --watch shows the way on stderr and the summary on stdout', async () => {
    const agent = await withAgent(sending(preparing, mirroring, precopying, succeeded));
    const result = await cli(['migrate', 'web1', 'host-b', '--watch', '--agent', agent]);
    expect(result.exitCode).toBe(0);
    const phases = result.stderr.split('\n').map((line) => /web1: (\w*)/.exec(line)?.[1]);
    expect(phases.filter(Boolean)).toEqual(['prepare', 'mirror', 'precopy', 'succeeded']);
    expect(result.stdout).toContain('web1 runs on host-b.');
    expect(result.stdout).toContain("46.1 ms  31 ms by QEMU's own count");
  });

  it('with --watch --json prints every snapshot as a line, and nothing on stderr', async () => {
    const agent = await withAgent(sending(preparing, mirroring, succeeded));
    const result = await cli(['migrate', 'web1', 'host-b', '--watch', '--json', '--agent', agent]);
    expect([result.exitCode, result.stderr]).toEqual([0, '']);
    expect(result.json()).toMatchObject([
      { migration: { revision: 1, phase: 'PHASE_PREPARE' } },
      { migration: { revision: 12, disks: [{ disk_id: 'root' }, { disk_id: 'data' }] } },
      { migration: { state: 'STATE_SUCCEEDED', summary: { downtime: { total_us: 46_100 } } } },
    ]);
  });

  it('exits with 1 when the migration fails, and says why and where the guest is', async () => {
    const agent = await withAgent(sending(mirroring, failed));
    const line = ['migrate', 'web1', 'host-b', '--watch', '--agent', agent];
    const { exitCode, stdout, stderr } = await cli(line);
    expect([exitCode, stdout]).toEqual([1, '']);
    expect(stderr).toContain('[DISK_NO_SPACE]\n  where: on the destination, in the mirror phase\n');
    expect(stderr).toContain('web1: guest runs on host-a.');
    const asJson = await cli([...line, '--json']);
    expect(asJson.exitCode).toBe(1);
    expect(asJson.json().at(-1)).toMatchObject({ migration: { state: 'STATE_FAILED' } });
    expect(JSON.parse(asJson.stderr)).toMatchObject({
      error: { reason: 'DISK_NO_SPACE', side: 'SIDE_DESTINATION', phase: 'mirror' },
    });
  });

  it('exits with 4 when the migration is cancelled', async () => {
    const agent = await withAgent(sending(mirroring, cancelled));
    const result = await cli(['migrate', 'web1', 'host-b', '--watch', '--agent', agent]);
    expect(result.exitCode).toBe(4);
    expect(result.stderr).toContain('cancelled by the operator alice. [CANCELLED_BY]');
  });

  it('exits with 5 when doubt is not settled in time, and leaves the watch', async () => {
    const gone = deferred();
    const agent = await withAgent(hanging(gone.resolve, precopying, inDoubt));
    const line = ['migrate', 'web1', 'host-b', '--watch', '--agent', agent];
    const result = await cli(line, { doubtPatienceMs: 20 });
    await gone.promise;
    expect(result.exitCode).toBe(5);
    expect(result.stderr).toContain('[OWNERSHIP_UNKNOWN]');
    expect(result.stderr).toContain('web1: not known where the guest is.');
  });

  it('exits with 0 when doubt is settled in time', async () => {
    const agent = await withAgent(sending(inDoubt, succeeded));
    const result = await cli(['migrate', 'web1', 'host-b', '--watch', '--agent', agent]);
    expect(result.exitCode).toBe(0);
  });

  it('exits with 3 when the agent ends the watch too early', async () => {
    const agent = await withAgent(sending(mirroring));
    const result = await cli(['migrate', 'web1', 'host-b', '--watch', '--agent', agent]);
    expect(result.exitCode).toBe(3);
    expect(result.stderr).toContain('watch it again with `drover watch`');
  });

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ])('leaves the migration alone when %s ends the watching', async (signal, exitCode) => {
    const seen = deferred();
    const agent = await withAgent(hanging(seen.resolve, mirroring));
    const interruption = new AbortController();
    const result = cli(['watch', ID, '--agent', agent], {
      interruption: () => interruption.signal,
      stderr: { write: (text) => text.includes('mirror') && interruption.abort(signal) },
    });
    await seen.promise;
    expect((await result).exitCode).toBe(exitCode);
  });

  it('tells where else to ask when the domain does not run here', async () => {
    const agent = await withAgent({
      startMigration: async () => {
        throw new ReasonedError('DOMAIN_NOT_RUNNING', 'web1 does not run here.', {
          facts: { owner_host: 'host-c' },
        });
      },
    });
    const result = await cli(['migrate', 'web1', 'host-b', '--agent', agent]);
    expect(result.exitCode).toBe(1);
    expect(result.stderr).toContain('  owner host: host-c\n');
  });
});

describe('drover watch and cancel', () => {
  const other = migrationWith({ migrationId: '99999999-2222-4333-8444-555555555555' });
  const unknown = () => {
    throw new ReasonedError('MIGRATION_NOT_FOUND', 'No such migration.');
  };

  it('take a domain for its newest migration, by name or UUID', async () => {
    const asked: string[] = [];
    const agent = await withAgent({
      getMigration: async () => unknown(),
      listMigrations: async ({ domain }) => {
        asked.push(domain);
        return { migrations: [succeeded, other] };
      },
      async *watchMigration({ migrationId }) {
        asked.push(migrationId);
        yield { migration: succeeded };
      },
    });
    expect((await cli(['watch', 'web1', '--agent', agent])).exitCode).toBe(0);
    expect((await cli(['watch', other.domainUuid, '--agent', agent])).exitCode).toBe(0);
    expect(asked).toEqual(['web1', ID, other.domainUuid, ID]);
  });

  it('say that there is no such migration', async () => {
    const agent = await withAgent({
      getMigration: async () => unknown(),
      listMigrations: async () => ({ migrations: [] }),
    });
    const { exitCode, stderr } = await cli(['cancel', 'web1', '--agent', agent]);
    expect(exitCode).toBe(1);
    expect(stderr).toContain('[MIGRATION_NOT_FOUND]');
  });

  it.each([
    ['is on its way', mirroring, 0, 'The migration of web1 is being cancelled'],
    ['is cancelled', cancelled, 0, 'has ended; guest runs on host-a.'],
    ['has failed', failed, 0, 'has ended; guest runs on host-a.'],
    ['has succeeded', succeeded, 1, 'Too late: web1 runs on host-b.'],
    ['is in doubt', inDoubt, 5, 'Too late: the migration of web1 is in doubt'],
    [
      'is being handed over',
      migrationWith({ phase: 'PHASE_HANDOVER', cancellable: false }),
      1,
      'Too late: web1 is being handed over to host-b.',
    ],
  ])('cancel tells what came of it when the migration %s', async (_what, migration, code, text) => {
    const agent = await withAgent({
      getMigration: async () => ({ migration }),
      cancelMigration: async () => ({ migration }),
    });
    const { exitCode, stdout } = await cli(['cancel', ID, '--agent', agent]);
    expect(exitCode).toBe(code);
    expect(stdout).toContain(text);
    expect((await cli(['cancel', ID, '--agent', agent, '--json'])).json()).toMatchObject([
      { migration: { state: migration.state } },
    ]);
  });

  it('migrations lists them, newest first', async () => {
    const agent = await withAgent({
      listMigrations: async () => ({ migrations: [succeeded, failed] }),
    });
    const { stdout } = await cli(['migrations', '--agent', agent]);
    expect(`\n${stdout}`).toMatchInlineSnapshot(`
      "
      MIGRATION                             DOMAIN  TO      STATE        TIME
      11111111-2222-4333-8444-555555555555  web1    host-b  succeeded  30.5 s
      11111111-2222-4333-8444-555555555555  web1    host-b  failed        8 s
      "
    `);
    expect((await cli(['migrations', '--agent', agent, '--json'])).json()).toMatchObject([
      { migrations: [{ state: 'STATE_SUCCEEDED' }, { state: 'STATE_FAILED' }] },
    ]);
  });
});

describe('drover itself', () => {
  it('prints its version', async () => {
    const { stdout } = await cli(['version']);
    expect(stdout).toMatch(/^drover \d+\.\d+\.\d+\n$/);
    expect((await cli(['version', '--json'])).json()).toEqual([
      { version: stdout.trim().slice('drover '.length) },
    ]);
  });

  it('runs an agent and says where it listens', async () => {
    const ready = { host: 'host-a', address: '10.0.0.1:7443', unix: '/run/drover/drover.sock' };
    const files: string[] = [];
    const runAgent: CliEnvironment['runAgent'] = async ({ configFile, onReady }) => {
      files.push(configFile);
      onReady(ready);
    };
    const { stdout } = await cli(['agent', '--config', 'agent.yaml'], { runAgent });
    expect(stdout).toBe(
      'drover agent host-a is listening on 10.0.0.1:7443 and /run/drover/drover.sock\n',
    );
    const asJson = await cli(['agent', '--config', 'agent.yaml', '--json'], { runAgent });
    expect(asJson.json()).toEqual([{ agent: ready }]);
    expect(files).toEqual(['agent.yaml', 'agent.yaml']);
  });

  it('shows its help on stderr and exits with 2 when no command is given', async () => {
    const { exitCode, stdout, stderr } = await cli([]);
    expect([exitCode, stdout]).toEqual([2, '']);
    expect(stderr).toContain('Usage: drover <command>');
  });

  it.each([
    [['--help'], 0],
    [['migrate', '--help'], 0],
    [['help', 'migrate'], 0],
    [['--version'], 0],
    [['migrat'], 2],
    [['agent', '--config'], 2],
    [['list', '--agent', 'a/b'], 2],
    [['list', '--agent', 'unix:'], 2],
  ])('exits for %j with %i', async (args, exitCode) => {
    const result = await cli(args);
    expect(result.exitCode).toBe(exitCode);
    expect(exitCode === 0 ? result.stdout : result.stderr).not.toBe('');
  });

  it('tells wrong usage as JSON, too', async () => {
    const { stderr } = await cli(['migrate', '--json']);
    expect(JSON.parse(stderr)).toMatchObject({ error: { reason: 'REQUEST_INVALID' } });
  });
});
