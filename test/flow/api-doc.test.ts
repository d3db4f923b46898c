import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FakeFleet } from '../support/fake-fleet.js';

const doc = readFileSync(new URL('../../docs/api.md', import.meta.url), 'utf8');
const commands = [...doc.matchAll(/```sh\n([\s\S]*?)```/g)].map((match) => match[1] ?? '');

describe('the commands in docs/api.md', () => {
  let hosts: FakeFleet;
  beforeAll(async () => {
    hosts = await FakeFleet.start(['alpha', 'beta']);
    await hosts.run('alpha', 'web');
  });
  afterAll(() => hosts[Symbol.asyncDispose]());

  /** Runs a block of the page as it stands there, with the variables that it names. */
  async function run(command: string): Promise<string> {
    const { listen } = hosts.host('alpha').config;
    const env = {
      ...process.env,
      AGENT: listen.address,
      SOCKET: listen.unix,
      CERTS: await operatorFiles(),
    };
    const { stdout } = await promisify(execFile)('sh', ['-ec', command], { env, timeout: 30_000 });
    return stdout;
  }

  /** A folder of an operator's files, with the names that `drover pki issue` gives them. */
  async function operatorFiles(): Promise<string> {
    const { certificates } = hosts.fleet;
    const files = await certificates.operator('operator');
    await copyFile(files.certificate, join(certificates.directory, 'certificate.pem'));
    await copyFile(files.key, join(certificates.directory, 'key.pem'));
    await copyFile(files.ca, join(certificates.directory, 'ca.pem'));
    return certificates.directory;
  }

  const commandWith = (part: string): string => {
    const found = commands.filter((command) => command.includes(part));
    expect(found, part).toHaveLength(1);
    return found[0] ?? '';
  };

  it('list the services by reflection', async () => {
    const listed = await run(commandWith('--list-services'));
    for (const service of ['Migration', 'Domain', 'Host', 'Peer']) {
      expect(listed).toContain(`drover.v1.${service}Service`);
    }
    expect(listed).toContain('grpc.health.v1.Health');
  });

  it('ask for health and for the peers', async () => {
    expect(await run(commandWith('Health/Check'))).toContain('SERVING');
    expect(await run(commandWith('ListPeers'))).toContain('"name": "beta"');
  });

  it('start a migration and watch it to its end', async () => {
    const started = await run(commandWith('StartMigration'));
    expect(started).toContain('5f0c7e1a-7d6c-4a39-9a51-1d7f6f5f3c11');
    const watched = await run(commandWith('WatchMigration'));
    expect(watched).toContain('STATE_SUCCEEDED');
  });

  it('ask who has the domain, and find nothing to resolve', async () => {
    const asked = await run(commandWith('WhoRuns'));
    expect(asked).toContain('"certainty": "CERTAINTY_CERTAIN"');
    expect(asked).toContain('"ownerHost": "beta"');
    // The migration has succeeded: nothing is in doubt.
    await expect(run(commandWith('ResolveMigration'))).rejects.toThrow(
      /failed_precondition[\s\S]*not in doubt here/,
    );
  });

  it('reach the agent through its unix socket', async () => {
    expect(await run(commandWith('--unix-socket'))).toContain('"name": "web"');
  });

  it('are all run by this test', () => {
    expect(commands).toHaveLength(8);
  });
});
