import { HealthDefinition } from 'nice-grpc-server-health';
import { ServerReflectionService } from 'nice-grpc-server-reflection';
import { describe, expect, it } from 'vitest';
import { DomainServiceDefinition } from '../../../src/gen/drover/v1/domain_service.js';
import { HostServiceDefinition } from '../../../src/gen/drover/v1/host_service.js';
import { MigrationServiceDefinition } from '../../../src/gen/drover/v1/migration_service.js';
import { PeerServiceDefinition } from '../../../src/gen/drover/v1/peer_service.js';
import { allowedRoles, authorize } from '../../../src/rpc/authorization.js';

const paths = (definition: { fullName: string; methods: Record<string, { name: string }> }) =>
  Object.values(definition.methods).map(({ name }) => `/${definition.fullName}/${name}`);
/** Agents ask each other where a domain is. */
const WHO_RUNS = '/drover.v1.DomainService/WhoRuns';
const operatorsOnly = [
  ...paths(MigrationServiceDefinition),
  ...paths(DomainServiceDefinition).filter((path) => path !== WHO_RUNS),
];
const hostsOnly = paths(PeerServiceDefinition);
const both = [
  WHO_RUNS,
  ...paths(HostServiceDefinition),
  ...paths(HealthDefinition),
  ...Object.values(ServerReflectionService).map(({ path }) => path),
];

describe('who may call what', () => {
  it.each([...operatorsOnly, ...hostsOnly, ...both])('has a row for %s', (path) => {
    expect(allowedRoles(path).length).toBeGreaterThan(0);
  });

  it('covers every service that an agent has', () => {
    expect([operatorsOnly.length, hostsOnly.length, both.length]).toEqual([12, 10, 6]);
  });

  it.each(operatorsOnly)('lets operators call %s, and no host', (path) => {
    expect(allowedRoles(path)).toEqual(['operator']);
  });

  it.each(hostsOnly)('lets hosts call %s, and no operator', (path) => {
    expect(allowedRoles(path)).toEqual(['host']);
  });

  it.each(both)('lets both call %s', (path) => {
    expect(allowedRoles(path)).toEqual(['host', 'operator']);
  });

  it('denies what has no row to everybody, and says who may', () => {
    const operator = { role: 'operator', name: 'alice' } as const;
    expect(() => authorize('/drover.v1.DomainService/ExplodeDomain', operator)).toThrow(
      /for nobody/,
    );
    expect(() => authorize('/drover.v1.PeerService/Commit', operator)).toThrow(
      expect.objectContaining({
        reason: 'PERMISSION_DENIED',
        message: expect.stringMatching(/operator alice .* host/),
      }),
    );
    expect(() => authorize('/drover.v1.HostService/GetHost', operator)).not.toThrow();
  });
});
