import type { DomainInfo, HostFacts } from '../domain/manager.js';
import type { Doubt } from '../domain/types.js';
import { Domain_State, type Domain as WireDomain } from '../gen/drover/v1/domain.js';
import type { Failure as WireFailure } from '../gen/drover/v1/failure.js';
import type { Host as WireHost, Peer as WirePeer } from '../gen/drover/v1/host.js';
import type { PeerFacts } from '../mesh/peers.js';
import { toFailure } from '../migration/errors.js';
import { domainSpecToWire } from './convert-launch-spec.js';
import { failureToWire } from './convert-migration.js';
import { RpcError } from './errors.js';
import { PROTOCOL_VERSION } from './ports.js';
import { uint32, uint64 } from './whole-number.js';

/** A domain as callers get it. */
export function domainToWire(domain: DomainInfo): WireDomain {
  return {
    spec: domainSpecToWire(domain.spec),
    state: Domain_State[domain.state],
    ownerHost: domain.ownerHost,
    generation: uint64(domain.generation),
    qemuPid: uint32(domain.qemuPid),
    serialPath: domain.serialPath,
    migrationId: domain.migrationId,
    tombstoneBytes: uint64(domain.tombstoneBytes),
    epoch: uint64(domain.epoch),
    doubt: domain.doubt && doubtToWire(domain.doubt),
  };
}

function doubtToWire({ reason, message, hint, facts }: Doubt): WireFailure {
  const options = { ...(hint ? { hint } : {}), ...(facts ? { facts } : {}) };
  return failureToWire(toFailure(new RpcError(reason, message, options), undefined, undefined));
}

/** The host as callers get it. */
export function hostToWire(host: HostFacts, agentVersion: string): WireHost {
  return {
    name: host.name,
    agentVersion,
    protocolVersion: PROTOCOL_VERSION,
    qemuVersion: host.qemuVersion,
    qemuProblem: host.qemuProblem,
    memoryBytes: uint64(host.memoryBytes),
    availableMemoryBytes: uint64(host.availableMemoryBytes),
    cpus: uint32(host.cpus),
    pools: host.pools.map((pool) => ({
      name: pool.name,
      shared: pool.shared,
      sizeBytes: uint64(pool.sizeBytes),
      availableBytes: uint64(pool.availableBytes),
      readsAsZeros: pool.readsAsZeros,
    })),
    kernels: [...host.kernels],
  };
}

/** A peer as callers get it. */
export function peerToWire(peer: PeerFacts): WirePeer {
  return { ...peer, roundTripMs: uint32(peer.roundTripMs) };
}
