import { readFileSync } from 'node:fs';
import { fromBinary } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { type Client, Server, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { allowedRoles } from '../../src/rpc/authorization.js';
import { RpcError } from '../../src/rpc/errors.js';
import type { CertificateFiles } from '../support/certificates.js';
import { makeTestCertificates, type TestCertificates } from '../support/certificates.js';
import { type FakeAgent, startFakeAgent } from '../support/fake-agent.js';
import { callRaw, type MethodKind, rawClient } from '../support/raw-grpc.js';

/*
 * Every method of every service, called by everybody over real TLS. The table is written out here
 * once more, because a test that asked the code what is allowed would allow everything.
 */

const MIGRATIONS = '/drover.v1.MigrationService';
const DOMAINS = '/drover.v1.DomainService';
const HOSTS = '/drover.v1.HostService';
const PEERS = '/drover.v1.PeerService';
const HEALTH = '/grpc.health.v1.Health';
const REFLECTION = '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo';

const movers = ['scheduler', 'operator'];
const readers = [...movers, 'observer'];
const everybody = [...readers, 'host'];

const TABLE: Readonly<Record<string, readonly string[]>> = {
  [`${MIGRATIONS}/StartMigration`]: movers,
  [`${MIGRATIONS}/CancelMigration`]: movers,
  [`${MIGRATIONS}/ResolveMigration`]: movers,
  [`${MIGRATIONS}/GetMigration`]: readers,
  [`${MIGRATIONS}/ListMigrations`]: readers,
  [`${MIGRATIONS}/WatchMigration`]: readers,
  [`${DOMAINS}/CreateDomain`]: ['operator'],
  [`${DOMAINS}/StartDomain`]: ['operator'],
  [`${DOMAINS}/StopDomain`]: ['operator'],
  [`${DOMAINS}/DeleteDomain`]: ['operator'],
  [`${DOMAINS}/GetDomain`]: readers,
  [`${DOMAINS}/ListDomains`]: readers,
  [`${DOMAINS}/WhoRuns`]: everybody,
  [`${HOSTS}/GetHost`]: everybody,
  [`${HOSTS}/ListPeers`]: readers,
  [`${HOSTS}/ListAuditEvents`]: ['operator', 'observer'],
  [`${PEERS}/Prepare`]: ['host'],
  [`${PEERS}/ExportDisks`]: ['host'],
  [`${PEERS}/AcceptRam`]: ['host'],
  [`${PEERS}/ProbeData`]: ['host'],
  [`${PEERS}/ShareIngress`]: ['host'],
  [`${PEERS}/AwaitLoaded`]: ['host'],
  [`${PEERS}/Commit`]: ['host'],
  [`${PEERS}/Revoke`]: ['host'],
  [`${PEERS}/Abort`]: ['host'],
  [`${PEERS}/QueryMigration`]: ['host'],
  [`${PEERS}/SourceGone`]: ['host'],
  [`${HEALTH}/Check`]: everybody,
  [`${HEALTH}/Watch`]: everybody,
  [REFLECTION]: readers,
};

const KNOWN = ['host', 'scheduler', 'operator', 'observer'];
/** Two that the CA may well have signed, and that are nobody here. */
const UNKNOWN = ['root', 'diag'];
const CELLS = Object.keys(TABLE).flatMap((path) =>
  [...KNOWN, ...UNKNOWN].map((role) => [path, role] as const),
);

/** A port whose every method says that it was reached. */
function reached<Port extends object>(calls: string[]): Partial<Port> {
  return new Proxy({}, { get: (_port, name) => arrive(calls, String(name)) }) as Partial<Port>;
}

function arrive(calls: string[], name: string): () => never {
  return () => {
    calls.push(name);
    throw new RpcError('MIGRATION_NOT_FOUND', 'reached');
  };
}

describe('what each role may call', () => {
  let certificates: TestCertificates;
  let agent: FakeAgent;
  const calls: string[] = [];
  const served = new Map<string, string>();
  const clients = new Map<string, Client>();

  beforeAll(async () => {
    certificates = await makeTestCertificates();
    const register = vi.spyOn(Server.prototype, 'register');
    agent = await startFakeAgent(await certificates.host('host-b'), {
      migrations: reached(calls),
      domains: reached(calls),
      host: {
        facts: arrive(calls, 'facts'),
        peers: arrive(calls, 'peers'),
        auditEvents: arrive(calls, 'auditEvents'),
      },
      peer: reached(calls),
      ownership: reached(calls),
      resolve: reached(calls),
    });
    for (const [path, , , , kind] of register.mock.calls) served.set(path, kind);
    register.mockRestore();
    for (const role of [...KNOWN, ...UNKNOWN]) {
      clients.set(role, rawClient(agent.address, await certificateOf(role)));
    }
  });
  afterAll(async () => {
    for (const client of clients.values()) client.close();
    await agent?.[Symbol.asyncDispose]();
    await certificates?.[Symbol.asyncDispose]();
  });

  const certificateOf = (role: string): Promise<CertificateFiles> =>
    certificates.leaf(`${role}-x`, {
      commonName: 'x',
      uris: [`spiffe://drover.test/${role}/${role === 'host' ? 'host-a' : 'someone'}`],
    });
  const kindOf = (path: string) => served.get(path) as MethodKind;

  it('is written down here for every method that the server has, and for no other', () => {
    expect([...served.keys()].sort()).toEqual(Object.keys(TABLE).sort());
  });

  it('is written down here for every method that the descriptors have', () => {
    const bytes = readFileSync(new URL('../../src/gen/descriptor.binpb', import.meta.url));
    const described = fromBinary(FileDescriptorSetSchema, bytes).file.flatMap((file) =>
      file.service.flatMap(({ name, method }) =>
        method.map((one) => `/${file.package}.${name}/${one.name}`),
      ),
    );
    // The service of reflection itself is not among them, and every other method is.
    expect([...described, REFLECTION].sort()).toEqual(Object.keys(TABLE).sort());
  });

  it('is the same in the table of the server', () => {
    for (const path of served.keys()) {
      expect([path, [...allowedRoles(path)].sort()]).toEqual([
        path,
        [...(TABLE[path] ?? [])].sort(),
      ]);
    }
  });

  it.each(CELLS)('%s by a certificate of role %s', async (path, role) => {
    calls.length = 0;
    const allowed = TABLE[path]?.includes(role) ?? false;
    // Those who may not call get their answer although their stream of requests never begins.
    const answer = await callRaw(clients.get(role) as Client, path, kindOf(path), {
      sends: allowed,
    });
    if (!allowed) {
      expect(answer).toMatchObject({ code: status.PERMISSION_DENIED, messages: 0 });
      expect(calls).toEqual([]);
      return;
    }
    // An empty request may be too little for the handler: that is its own word, too.
    if (answer.code === status.INVALID_ARGUMENT) return;
    expect([status.OK, status.NOT_FOUND, status.CANCELLED]).toContain(answer.code);
    expect(answer.messages + calls.length, answer.details).toBeGreaterThan(0);
  });

  it.each(Object.keys(TABLE))('%s by nobody, without a certificate', async (path) => {
    calls.length = 0;
    const { ca } = await certificateOf('operator');
    const client = rawClient(agent.address, { ca });
    const answer = await callRaw(client, path, kindOf(path), { sends: true });
    client.close();
    expect(answer).toMatchObject({ code: status.UNAVAILABLE, messages: 0 });
    expect(calls).toEqual([]);
  });

  it('is nothing where the method does not exist', async () => {
    const operator = clients.get('operator') as Client;
    const answer = await callRaw(operator, `${DOMAINS}/Explode`, 'unary', { sends: true });
    expect(answer.code).toBe(status.UNIMPLEMENTED);
  });
});
