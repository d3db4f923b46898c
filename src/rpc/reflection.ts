import { readFileSync } from 'node:fs';
import { HealthDefinition } from 'nice-grpc-server-health';
import { ServerReflection } from 'nice-grpc-server-reflection';
import { DomainServiceDefinition } from '../gen/drover/v1/domain_service.js';
import { HostServiceDefinition } from '../gen/drover/v1/host_service.js';
import { MigrationServiceDefinition } from '../gen/drover/v1/migration_service.js';
import { PeerServiceDefinition } from '../gen/drover/v1/peer_service.js';

/*
 * Every name here must be in the descriptor set, or clients refuse the whole list. Health is in it
 * because its proto is among ours; the service of reflection itself is not.
 */
const SERVICES = [
  MigrationServiceDefinition,
  DomainServiceDefinition,
  HostServiceDefinition,
  PeerServiceDefinition,
  HealthDefinition,
].map(({ fullName }) => fullName);

/**
 * Answers what the services look like, from the descriptor set that lies beside the generated code.
 */
export function reflection(): ReturnType<typeof ServerReflection> {
  const descriptors = readFileSync(new URL('../gen/descriptor.binpb', import.meta.url));
  return ServerReflection(descriptors, SERVICES);
}
