import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { create, type Message, toBinary } from '@bufbuild/protobuf';
import { type Client, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import type { LaunchRequest } from '../../src/process/launcher.js';
import { type FakeAgent, startFakeAgent } from '../support/fake-agent.js';
import { FakeFleet, specOf } from '../support/fake-fleet.js';
import { FakeLauncher } from '../support/fake-qemu.js';
import { migrate } from '../support/fleet.js';
import { memoryMib, whileAnswering, wrapped } from '../support/hostile.js';
import { callRaw, describedServices, METHODS, rawClient } from '../support/raw-grpc.js';
import { placesIn } from '../support/request-walk.js';

/*
 * Every string of every request of every method, found in the descriptors so that a new one is
 * tried too, is replaced by what would be a path, an option, a program or a key somewhere. What
 * surrounds it is a sound request, as far as there is one to be had: a call that gets through is
 * carried out, and its effects are looked at.
 */

/** In every one of the strings, and nowhere else. */
const MARK = 'zq9';
const CANARY = 'do not touch';

const STRINGS: readonly string[] = [
  `../../../../../../${MARK}`,
  `/etc/${MARK}`,
  `..%2f..%2f${MARK}`,
  `./${MARK}/.`,
  `${MARK},file=/etc/passwd,if=none`,
  `${MARK},,driver=vvfat`,
  `json:{"driver":"file","filename":"/etc/${MARK}"}`,
  `nbd:unix:/run/${MARK}`,
  `exec:touch /tmp/${MARK}`,
  `fd:0 ${MARK}`,
  `-daemonize ${MARK}`,
  `--help=${MARK}`,
  `$(touch ${MARK})\`touch ${MARK}\`;touch ${MARK}`,
  `${MARK}\n-device\nvfio-pci`,
  `${MARK}\u0000.raw`,
  `${MARK}\u001b[2J\u202e`,
  `${MARK}"}, {"driver": "x`,
  `%s%n${MARK}`,
  `__proto__${MARK}`,
  `${MARK}${'A'.repeat(70_000)}`,
  '__proto__',
  'constructor',
  '..',
];

/** Remembers how its QEMUs are started. */
class RecordingLauncher extends FakeLauncher {
  readonly started: LaunchRequest[] = [];

  override launch(request: LaunchRequest, options?: { readonly signal?: AbortSignal }) {
    this.started.push(request);
    return super.launch(request, options);
  }
}

let hosts: FakeFleet;
let liar: FakeAgent;
let operator: Client;
let peer: Client;
const launcher = new RecordingLauncher();
/** Sound requests, by method, as the test saw them or as it makes them. */
const sound = new Map<string, () => object>();

beforeAll(async () => {
  let prepared: LaunchSpec | undefined;
  hosts = await FakeFleet.start(['alpha', 'beta', 'mallory'], {
    // Any file will do for QEMUs that are none.
    kernels: [
      {
        name: 'linux',
        kernel: join(process.cwd(), 'package.json'),
        initrd: undefined,
        arguments: '',
      },
    ],
    parts: (host) =>
      host === 'alpha'
        ? {
            launcher,
            handler: (handler) =>
              wrapped(handler, {
                prepare: (header, launchSpec) => {
                  if (header.sourceHost === 'beta') prepared = launchSpec;
                  return handler.prepare(header, launchSpec);
                },
              }),
          }
        : {},
  });
  await hosts.run('beta', 'web', { kernel: 'linux', kernelArguments: 'quiet' });
  expect((await migrate(hosts.host('beta'), 'web', 'alpha')).failure).toBeUndefined();
  const { listen, tls } = hosts.host('mallory').config;
  await hosts.host('mallory').stop();
  liar = await startFakeAgent(tls, {
    address: listen.address,
    peer: {
      queryMigration: async ({ sourceJournalId }) => ({
        record: 'STARTED',
        rank: { epoch: 1, generation: 1 },
        journalId: sourceJournalId,
        failure: undefined,
      }),
    },
  });
  const { address } = hosts.host('alpha').config.listen;
  operator = rawClient(address, await hosts.fleet.certificates.operator('mallory'));
  peer = rawClient(address, tls);
  makeSound(prepared as unknown as LaunchSpec);
  await mkdir(join(hosts.fleet.folder, 'canaries'));
  await writeFile(join(hosts.fleet.folder, 'canaries', 'canary'), CANARY);
});
afterAll(async () => {
  operator?.close();
  peer?.close();
  await liar?.[Symbol.asyncDispose]();
  await hosts?.[Symbol.asyncDispose]();
});

function makeSound(launchSpec: LaunchSpec): void {
  const { spec, disks } = launchSpec;
  const known = {
    ...launchSpec,
    disks: disks.map((disk) => ({ ...asWire(disk), allocatedBytes: BigInt(disk.allocatedBytes) })),
  };
  const header = () => ({
    protocolVersion: 1,
    migrationId: crypto.randomUUID(),
    attempt: 1,
    domainUuid: crypto.randomUUID(),
    epoch: 1n,
    generation: 1n,
    sourceHost: 'mallory',
    destinationHost: 'alpha',
    sourceJournalId: 'journal',
  });
  const booted = { ...specOf('made'), kernel: 'linux', kernelArguments: 'quiet' };
  const domain = { ...booted, memoryBytes: 64n * 1024n ** 2n, disks: booted.disks.map(asWire) };
  sound.set('CreateDomain', () => ({
    spec: structuredClone({ ...domain, name: `m-${crypto.randomUUID()}` }),
  }));
  sound.set('Prepare', () => {
    const said = header();
    const twin = {
      ...spec,
      memoryBytes: BigInt(spec.memoryBytes),
      disks: spec.disks.map(asWire),
      uuid: said.domainUuid,
      name: `m-${said.domainUuid}`,
    };
    return structuredClone({ header: said, launchSpec: { ...known, spec: twin } });
  });
  for (const name of PEER_METHODS) sound.set(name, () => ({ header: header() }));
  sound.set('StartMigration', () => ({ domain: 'web', destinationHost: 'nobody' }));
  sound.set('ResolveMigration', () => ({ migrationId: crypto.randomUUID(), action: 1 }));
}

/** Numbers of 64 bits are no others here. */
function asWire(disk: { readonly sizeBytes: number }): object {
  return { ...disk, sizeBytes: BigInt(disk.sizeBytes) };
}

const PEER_METHODS = [
  'ExportDisks',
  'AcceptRam',
  'AwaitLoaded',
  'Commit',
  'Revoke',
  'Abort',
  'QueryMigration',
  'SourceGone',
];

const CASES = describedServices().flatMap((service) =>
  service.methods.map((method) => {
    const path = `/${service.typeName}/${method.name}`;
    return { path, name: method.name, input: method.input, places: placesIn(method.input) };
  }),
);

/** Everything below a folder, with what would tell a change of it. */
async function listing(folder: string): Promise<string[]> {
  const names = await readdir(folder, { recursive: true });
  return names.sort();
}

/** What there is outside of what alpha keeps. */
async function outside(): Promise<string[]> {
  const names = await listing(hosts.fleet.folder);
  return names.filter((name) => !/^(alpha|beta|mallory)\//.test(name));
}

describe('strings that would like to be something else', () => {
  it('are found in every method, also in one that is new', () => {
    expect(CASES.map(({ path }) => path).sort()).toEqual(
      Object.keys(METHODS)
        .filter((path) => !path.includes('reflection'))
        .sort(),
    );
    const places = CASES.flatMap((one) => one.places);
    expect(places.length).toBeGreaterThan(100);
    // Each kind of place is among them.
    const names = places.map(({ name }) => name);
    for (const kind of [/\[\]$/, /\{key\}$/, /\{value\}$/, /DiskSpec\.image$/, /PeerHeader\./]) {
      expect(names.filter((name) => kind.test(name)).length, `${kind}`).toBeGreaterThan(0);
    }
  });

  it('are refused, or carried out as nothing but text', async () => {
    const before = { files: await outside(), memory: memoryMib() };
    const pool = await listing(hosts.host('alpha').pool);
    const bad: string[] = [];
    const { client } = hosts.host('alpha');
    let calls = 0;
    const accepted = new Map<string, number>();
    await whileAnswering(client, async () => {
      for (const { path, name, input, places } of CASES) {
        for (const place of places) {
          const answers = await Promise.all(
            STRINGS.map(async (text) => {
              const request = create(input, (sound.get(name)?.() ?? {}) as never);
              const message = Buffer.from(place.put(request, text));
              const caller = path.includes('.PeerService/') ? peer : operator;
              const kind = METHODS[path] ?? 'unary';
              calls += 1;
              const answer = await callRaw(caller, path, kind, { sends: true, message });
              if (name === 'Prepare' && answer.code === status.OK) await giveUp(request);
              return answer;
            }),
          );
          for (const [i, { code, details }] of answers.entries()) {
            const what = `${path} ${place.name} ${JSON.stringify(STRINGS[i]).slice(0, 60)}`;
            if (code === status.OK) accepted.set(place.name, (accepted.get(place.name) ?? 0) + 1);
            if (!HARMLESS.has(code)) bad.push(`${what}: ${status[code]} ${details.slice(0, 200)}`);
          }
          await clearUp();
        }
      }
    });
    console.log(
      `strings: ${calls} calls, carried out as text: ${[...accepted]
        .map(([place, count]) => `${place} ${count}`)
        .join(', ')}`,
    );
    expect(bad).toEqual([]);
    expect(await outside()).toEqual(before.files);
    expect(await readFile(join(hosts.fleet.folder, 'canaries', 'canary'), 'utf8')).toBe(CANARY);
    expect(await listing(hosts.host('alpha').pool)).toEqual(pool);
    for (const folder of [hosts.fleet.folder, '/', '/tmp', '/etc', process.cwd()]) {
      const names = folder === hosts.fleet.folder ? await listing(folder) : await readdir(folder);
      expect(names.filter((name) => name.includes(MARK))).toEqual([]);
    }
    expect(Object.getOwnPropertyNames(Object.prototype).join()).not.toContain(MARK);
    expect(memoryMib() - before.memory).toBeLessThan(300);
    for (const { argv } of launcher.started) expectQuoted(argv);
    expect((await migrate(hosts.host('alpha'), 'web', 'beta')).failure).toBeUndefined();
  }, 60_000);
});

/** What a caller may be told: never that the agent itself was at a loss. */
const HARMLESS = new Set<number>([
  status.OK,
  status.CANCELLED,
  status.INVALID_ARGUMENT,
  status.NOT_FOUND,
  status.ALREADY_EXISTS,
  status.PERMISSION_DENIED,
  status.FAILED_PRECONDITION,
  status.ABORTED,
  status.UNAVAILABLE,
]);

/** The source of a migration that came so far gives it up. */
async function giveUp(request: Message): Promise<void> {
  const abort = CASES.find(({ name }) => name === 'Abort');
  if (!abort) throw new Error('There is no Abort.');
  const header = { ...(request as unknown as { header: object }).header, destinationJournalId: '' };
  const message = Buffer.from(toBinary(abort.input, create(abort.input, { header } as never)));
  const answer = await callRaw(peer, abort.path, 'unary', { sends: true, message });
  expect(answer.code).toBe(status.OK);
}

/** Removes what was made; starts it before, so that its command line can be looked at. */
async function clearUp(): Promise<void> {
  const { client } = hosts.host('alpha');
  const { domains } = await client.domains.listDomains({});
  for (const { spec } of domains) {
    if (!spec || spec.name === 'web') continue;
    const reference = { domain: spec.uuid };
    await client.domains.startDomain(reference).catch(() => undefined);
    await client.domains.stopDomain({ ...reference, force: true }).catch(() => undefined);
    await client.domains.deleteDomain(reference).catch(() => undefined);
  }
}

/** The strings stand in no argument but as the whole of a value. */
function expectQuoted(argv: readonly string[]): void {
  for (const [at, argument] of argv.entries()) {
    if (!argument.includes(MARK)) continue;
    const option = argv[at - 1] ?? '';
    const isValue =
      (option === '-append' && STRINGS.includes(argument)) ||
      (option === '-cpu' && argument.split(',').every(isCpuValue)) ||
      (argument.startsWith('{') && isInJson(argument));
    expect(isValue, `${option} ${argument}`).toBe(true);
  }
}

/** QEMU takes a value of the CPU as it is, up to the next comma. */
function isCpuValue(setting: string): boolean {
  return !setting.includes(MARK) || STRINGS.includes(setting.slice(setting.indexOf('=') + 1));
}

function isInJson(text: string): boolean {
  const values: unknown[] = [JSON.parse(text)];
  for (const value of values) {
    if (typeof value === 'string' && STRINGS.includes(value)) return true;
    if (typeof value === 'object' && value !== null) values.push(...Object.values(value));
  }
  return false;
}
