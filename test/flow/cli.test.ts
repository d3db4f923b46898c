import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Domain } from '../../src/gen/drover/v1/domain.js';
import type { CreateDomainRequest } from '../../src/gen/drover/v1/domain_service.js';
import { Host, Peer } from '../../src/gen/drover/v1/host.js';
import { ReasonedError } from '../../src/util/reasoned-error.js';
import { makeTestCertificates } from '../support/certificates.js';
import { cli, type FakeServices, startFakeServices } from '../support/cli-stage.js';

const GIB = 1024 ** 3;

const web1 = Domain.fromPartial({
  spec: {
    name: 'web1',
    uuid: '66666666-7777-4888-8999-000000000000',
    memoryBytes: 2 * GIB,
    vcpus: 2,
    cpu: 'qemu64',
    machine: 'pc-q35-10.0',
    accelerator: 'tcg',
    disks: [
      { id: 'root', pool: 'default', sizeBytes: 10 * GIB, bus: 'virtio-blk', format: 'qcow2' },
      { id: 'tools', pool: 'default', sizeBytes: GIB, bus: 'virtio-scsi', readOnly: true },
    ],
    nics: [
      { id: 'lan', type: 'tap', bridge: 'br0', mac: '52:54:00:12:34:56', model: 'virtio-net' },
    ],
    rng: true,
  },
  state: 'STATE_RUNNING',
  ownerHost: 'host-a',
  generation: 3,
  qemuPid: 4711,
});
const moved = Domain.fromPartial({
  spec: { name: 'db', memoryBytes: GIB, vcpus: 1 },
  state: 'STATE_MOVED',
  ownerHost: 'host-b',
  tombstoneBytes: 1.5 * GIB,
});

async function withAgent(services: FakeServices): Promise<string> {
  const server = await startFakeServices(services);
  onTestFinished(() => server[Symbol.asyncDispose]());
  return server.address;
}

describe('commands about domains', () => {
  it('list prints a table, and JSON with the names of the proto files', async () => {
    const agent = await withAgent({
      domains: { listDomains: async () => ({ domains: [moved, web1] }) },
    });
    const { stdout, exitCode } = await cli(['list', '--agent', agent]);
    expect(exitCode).toBe(0);
    expect(`\n${stdout}`).toMatchInlineSnapshot(`
      "
      NAME  STATE    MEMORY  VCPUS      DISKS  NOTE
      db    moved     1 GiB      1       none  lives on host-b, tombstone 1.5 GiB
      web1  running   2 GiB      2  2, 11 GiB
      "
    `);
    const [line, ...others] = (await cli(['--agent', agent, '--json', 'list'])).json();
    expect(others).toEqual([]);
    expect(line).toMatchObject({
      domains: [
        { state: 'STATE_MOVED', owner_host: 'host-b', tombstone_bytes: 1.5 * GIB },
        { spec: { name: 'web1', memory_bytes: 2 * GIB }, qemu_pid: 4711, migration_id: '' },
      ],
    });
  });

  it('list says that there are none', async () => {
    const agent = await withAgent({ domains: { listDomains: async () => ({}) } });
    expect((await cli(['list', '--agent', agent])).stdout).toBe('There are no domains here.\n');
    expect((await cli(['list', '--agent', agent, '--json'])).json()).toEqual([{ domains: [] }]);
  });

  it('get shows everything about one', async () => {
    const asked: string[] = [];
    const agent = await withAgent({
      domains: {
        getDomain: async ({ domain }) => {
          asked.push(domain);
          return { domain: web1 };
        },
      },
    });
    const { stdout, exitCode } = await cli(['get', 'web1', '--agent', agent]);
    expect([exitCode, asked]).toEqual([0, ['web1']]);
    expect(`\n${stdout}`).toMatchInlineSnapshot(`
      "
      name          web1
      uuid          66666666-7777-4888-8999-000000000000
      state         running
      owner host    host-a
      generation    3
      QEMU process  4711
      memory        2 GiB
      vcpus         2
      cpu           qemu64
      machine       pc-q35-10.0
      accelerator   tcg
      devices       rng

      DISK     SIZE  BUS          FORMAT  POOL     CACHE
      root   10 GiB  virtio-blk   qcow2   default
      tools   1 GiB  virtio-scsi          default         read-only

      NIC  TYPE        MODEL       MAC
      lan  tap on br0  virtio-net  52:54:00:12:34:56
      "
    `);
    expect((await cli(['get', 'web1', '--agent', agent, '--json'])).json()).toMatchObject([
      { domain: { spec: { disks: [{ id: 'root' }, { id: 'tools', read_only: true }] } } },
    ]);
  });

  it('start, stop and delete ask for what their options say', async () => {
    const requests: object[] = [];
    const answer = async (request: object) => {
      requests.push(request);
      return { domain: web1 };
    };
    const agent = await withAgent({
      domains: {
        startDomain: answer,
        stopDomain: answer,
        deleteDomain: async (request) => {
          requests.push(request);
          return {};
        },
      },
    });
    const env = { DROVER_AGENT: agent };
    const lines = [
      ['start', 'web1'],
      ['start', 'web1', '--paused'],
      ['stop', 'web1'],
      ['stop', 'web1', '--force', '--time-limit', '5m'],
      ['delete', 'web1'],
      ['delete', 'web1', '--tombstone'],
    ];
    const outputs: string[] = [];
    for (const line of lines) {
      const { exitCode, stdout } = await cli(line, { env });
      expect(exitCode).toBe(0);
      outputs.push(stdout.trim());
    }
    expect(requests).toMatchObject([
      { domain: 'web1', paused: false },
      { domain: 'web1', paused: true },
      { domain: 'web1', force: false, timeLimitMs: 0 },
      { domain: 'web1', force: true, timeLimitMs: 300_000 },
      { domain: 'web1', tombstone: false },
      { domain: 'web1', tombstone: true },
    ]);
    expect(outputs.slice(3)).toEqual([
      'web1 is running.',
      'web1 is deleted.',
      'The tombstone of web1 is deleted.',
    ]);
    expect((await cli(['delete', 'web1', '--json'], { env })).json()).toEqual([{}]);
  });

  it('create sends the spec of a file or of stdin', async () => {
    const requests: CreateDomainRequest[] = [];
    const agent = await withAgent({
      domains: {
        createDomain: async (request) => {
          requests.push(request);
          return { domain: web1 };
        },
      },
    });
    const folder = await mkdtemp(join(tmpdir(), 'drover-spec-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    const file = join(folder, 'web1.yaml');
    const text = 'name: web1\nmemory: 256MiB\naccelerator: tcg\ndisks: [{id: root, size: 1G}]\n';
    await writeFile(file, text);
    const { stdout } = await cli(['create', file, '--agent', agent]);
    expect(stdout).toBe('web1 is created, with UUID 66666666-7777-4888-8999-000000000000.\n');
    await cli(['create', '-', '--agent', agent], { stdin: inputOf(text) });
    expect(requests).toHaveLength(2);
    for (const { spec } of requests) {
      expect(spec).toMatchObject({
        name: 'web1',
        memoryBytes: 256 * 1024 ** 2,
        disks: [{ id: 'root', sizeBytes: GIB }],
      });
    }
  });

  it('create refuses a wrong spec without asking the agent, and exits with 2', async () => {
    const stdin = inputOf('name: web1\nmemory: 1GB\ndsiks: []\n');
    const { exitCode, stdout, stderr } = await cli(['create', '-'], { stdin });
    expect([exitCode, stdout]).toEqual([2, '']);
    expect(stderr).toContain('error: stdin is wrong: [SPEC_INVALID]\n');
    expect(stderr).toContain('  - line 3: the file has the unknown key `dsiks`');
    const missing = await cli(['create', '/nonexistent/web1.yaml']);
    expect(missing.exitCode).toBe(2);
    expect(missing.stderr).toContain('The spec /nonexistent/web1.yaml is not there.');
  });
});

describe('commands about hosts', () => {
  it('peers tells who answers, and why not', async () => {
    const peers = [
      Peer.fromPartial({
        name: 'host-b',
        address: '10.0.0.2:7443',
        reachable: true,
        agentVersion: '0.1.0',
        roundTripMs: 3,
      }),
      Peer.fromPartial({ name: 'host-c', address: '10.0.0.3:7443', problem: 'ECONNREFUSED' }),
    ];
    const agent = await withAgent({ hosts: { listPeers: async () => ({ peers }) } });
    const { stdout } = await cli(['peers', '--agent', agent]);
    expect(`\n${stdout}`).toMatchInlineSnapshot(`
      "
      NAME    ADDRESS        ANSWERS  VERSION  PROBLEM
      host-b  10.0.0.2:7443  in 3 ms  0.1.0
      host-c  10.0.0.3:7443  no                ECONNREFUSED
      "
    `);
    expect((await cli(['peers', '--agent', agent, '--json'])).json()).toMatchObject([
      { peers: [{ round_trip_ms: 3 }, { reachable: false, problem: 'ECONNREFUSED' }] },
    ]);
  });

  it('host shows QEMU, memory and pools', async () => {
    const host = Host.fromPartial({
      name: 'host-a',
      agentVersion: '0.1.0',
      protocolVersion: 1,
      qemuVersion: '10.0.2',
      memoryBytes: 64 * GIB,
      availableMemoryBytes: 20 * GIB,
      cpus: 16,
      pools: [{ name: 'default', sizeBytes: 1000 * GIB, availableBytes: 400 * GIB }],
      kernels: ['linux'],
    });
    const agent = await withAgent({ hosts: { getHost: async () => ({ host }) } });
    const { stdout } = await cli(['host', '--agent', agent]);
    expect(`\n${stdout}`).toMatchInlineSnapshot(`
      "
      name     host-a
      agent    0.1.0, protocol 1
      QEMU     10.0.2
      memory   20 GiB of 64 GiB available
      CPUs     16
      kernels  linux

      POOL         SIZE  AVAILABLE  SHARED
      default  1000 GiB    400 GiB  no
      "
    `);
    expect((await cli(['host', '--agent', agent, '--json'])).json()).toMatchObject([
      { host: { available_memory_bytes: 20 * GIB, pools: [{ reads_as_zeros: false }] } },
    ]);
  });
});

describe('an error of the agent', () => {
  it('is told with its reason, hint, facts and violations, also as JSON', async () => {
    const agent = await withAgent({
      domains: {
        getDomain: async () => {
          throw new ReasonedError('DISK_NO_SPACE', 'The pool default is full.', {
            side: 'destination',
            facts: { required_bytes: 42 },
            violations: [
              { reason: 'DISK_NO_SPACE', subject: 'disks[0]', message: 'disks[0] needs 42 bytes' },
              { reason: 'NO_MEMORY', subject: 'memory', message: 'memory is short' },
            ],
          });
        },
      },
    });
    const human = await cli(['get', 'web1', '--agent', agent]);
    expect([human.exitCode, human.stdout]).toEqual([1, '']);
    expect(`\n${human.stderr}`).toMatchInlineSnapshot(`
      "
      error: The pool default is full. [DISK_NO_SPACE]
        - disks[0] needs 42 bytes
        - memory is short
        where: on the destination
        required: 42 B
        what to do: Free space in the pool, or choose another host.
      "
    `);
    const { stdout, stderr } = await cli(['get', 'web1', '--agent', agent, '--json']);
    expect(stdout).toBe('');
    expect(JSON.parse(stderr)).toEqual({
      error: {
        reason: 'DISK_NO_SPACE',
        message: 'The pool default is full.',
        side: 'SIDE_DESTINATION',
        phase: '',
        hint: 'Free space in the pool, or choose another host.',
        retryable: false,
        metadata: { required_bytes: '42' },
        violations: [
          { reason: 'DISK_NO_SPACE', subject: 'disks[0]', message: 'disks[0] needs 42 bytes' },
          { reason: 'NO_MEMORY', subject: 'memory', message: 'memory is short' },
        ],
      },
    });
  });

  it.each([
    ['DOMAIN_NOT_FOUND', 1],
    ['REQUEST_INVALID', 2],
    ['PERMISSION_DENIED', 3],
    ['OWNERSHIP_UNKNOWN', 5],
  ] as const)('with reason %s makes the exit code %i', async (reason, exitCode) => {
    const agent = await withAgent({
      domains: {
        getDomain: async () => {
          throw new ReasonedError(reason, 'No.');
        },
      },
    });
    expect((await cli(['get', 'web1', '--agent', agent])).exitCode).toBe(exitCode);
  });

  it('is AGENT_UNREACHABLE with exit code 3 when there is no agent', async () => {
    const { exitCode, stderr } = await cli(['list', '--agent', 'unix:/nonexistent/agent.sock']);
    expect(exitCode).toBe(3);
    expect(stderr).toContain('/nonexistent/agent.sock');
    expect(stderr).toContain('[AGENT_UNREACHABLE]');
  });
});

describe('the network', () => {
  it('takes certificates from options, the environment, or the home directory', async () => {
    const certificates = await makeTestCertificates();
    onTestFinished(() => certificates[Symbol.asyncDispose]());
    const services = { domains: { listDomains: async () => ({ domains: [web1] }) } };
    const server = await startFakeServices(services, await certificates.host('host-a'));
    onTestFinished(() => server[Symbol.asyncDispose]());
    const { certificate, key, ca } = await certificates.operator('alice');
    const list = ['list', '--agent', server.address];
    const byOptions = ['--certificate', certificate, '--key', key, '--ca', ca];
    expect((await cli([...list, ...byOptions])).exitCode).toBe(0);
    const env = { DROVER_CERTIFICATE: certificate, DROVER_KEY: key, DROVER_CA: ca };
    expect((await cli(list, { env })).exitCode).toBe(0);

    const fromHome = await cli(list);
    expect(fromHome.exitCode).toBe(2);
    expect(fromHome.stderr).toContain('/nonexistent/.config/drover/certificate.pem');
    expect(fromHome.stderr).toContain(
      'what to do: Make one with `drover pki issue operator NAME`, or name it with --certificate, --key and --ca.',
    );
  });

  it('says that a certificate of another CA is not accepted, and exits with 3', async () => {
    const certificates = await makeTestCertificates();
    const strangers = await makeTestCertificates();
    onTestFinished(() => certificates[Symbol.asyncDispose]());
    onTestFinished(() => strangers[Symbol.asyncDispose]());
    const server = await startFakeServices({}, await certificates.host('host-a'));
    onTestFinished(() => server[Symbol.asyncDispose]());
    const { certificate, key, ca } = await strangers.operator('mallory');
    const env = { DROVER_CERTIFICATE: certificate, DROVER_KEY: key, DROVER_CA: ca };
    const { exitCode, stderr } = await cli(['list', '--agent', server.address], { env });
    expect(exitCode).toBe(3);
    expect(stderr).toContain('[TLS_PEER_REJECTED]');
  });
});

async function* inputOf(text: string): AsyncGenerator<string> {
  yield text;
}

describe('resolve', () => {
  const migrationId = '4e9b8f3a-6f39-4b43-9a53-0d3a6f1f5b11';
  const known = { migration: { migrationId, domainName: 'web1' } };

  it('asks for one of its two words, and for no other', async () => {
    for (const words of [[], ['--reclaim', '--relinquish']]) {
      const { exitCode, stderr } = await cli(['resolve', 'web1', ...words]);
      expect(exitCode).toBe(2);
      expect(stderr).toMatch(/either --reclaim or --relinquish/);
    }
  });

  it('sends what was typed, and tells what is discarded', async () => {
    const asked: unknown[] = [];
    const agent = await withAgent({
      migrations: {
        getMigration: async () => known,
        resolveMigration: async (request) => {
          asked.push(request);
          return {
            ...known,
            record: 'RECLAIMED',
            epoch: 2,
            generation: 1,
            evidence: 'EVIDENCE_CONFIRMED_NAME',
            ownerHost: 'host-a',
            peerAnswer: 'host-b does not answer.',
            discarded: [{ host: 'host-b', what: 'every write that the guest made on host-b' }],
          };
        },
      },
    });
    const words = ['--reclaim', '--confirm', 'web1', '--note', 'it is off'];
    const { exitCode, stdout } = await cli(['resolve', migrationId, ...words, '--agent', agent]);
    expect(exitCode).toBe(0);
    expect(asked).toMatchObject([
      { migrationId, action: 'ACTION_RECLAIM', confirmDomainName: 'web1', note: 'it is off' },
    ]);
    expect(`\n${stdout}`).toMatchInlineSnapshot(`
      "
      web1 is host-a's now, by the domain's name as you typed it.
        the journal says  RECLAIMED, epoch 2, generation 1
        the other side    host-b does not answer.
      Discarded:
        - every write that the guest made on host-b
      "
    `);
  });

  it('ends with 5 where nothing proves a fence: it is as much in doubt as before', async () => {
    const agent = await withAgent({
      migrations: {
        getMigration: async () => known,
        resolveMigration: async () => {
          throw new ReasonedError('FENCE_UNPROVEN', 'Nothing proves it.');
        },
      },
    });
    const { exitCode, stderr } = await cli(['resolve', migrationId, '--reclaim', '--agent', agent]);
    expect(exitCode).toBe(5);
    expect(stderr).toMatch(/FENCE_UNPROVEN/);
  });
});
