import type { ServiceImplementation } from 'nice-grpc';
import type { PeerHeader as WirePeerHeader } from '../gen/drover/v1/peer_service.js';
import { NO_RECORD, type PeerHandler, type PeerHeader } from '../migration/peer.js';
import { launchSpecFromWire } from './convert-launch-spec.js';
import { transportFromWire } from './convert-migration.js';
import {
  commitOutcomeToWire,
  headerFromWire,
  ingressToWire,
  peerStateFromWire,
  peerStateToWire,
  voteToWire,
} from './convert-peer.js';
import { diskServerToWire, probeToWire, ramServerToWire } from './convert-places.js';
import { RpcError } from './errors.js';
import type { Caller } from './identity.js';
import type { CallerContext } from './middleware.js';
import type { peerDefinition } from './peer-definition.js';

/** PeerService in front of the agent's half of each migration. */
export function peerService(
  handler: PeerHandler,
): ServiceImplementation<typeof peerDefinition, CallerContext> {
  return {
    async prepare(request, { caller }) {
      const header = fromSource(request.header, caller);
      const launchSpec = launchSpecFromWire(request.launchSpec);
      const { journalId, features } = await handler.prepare(header, launchSpec).catch(ofThisSide);
      return { journalId, features: [...features] };
    },
    async probeData({ header }, { caller }) {
      return probeToWire(await handler.probeData(fromSource(header, caller)));
    },
    async exportDisks({ header, transport }, { caller }) {
      const asked = fromSource(header, caller);
      return diskServerToWire(await handler.exportDisks(asked, transportFromWire(transport)));
    },
    async acceptRam({ header, transport }, { caller }) {
      const asked = fromSource(header, caller);
      return ramServerToWire(await handler.acceptRam(asked, transportFromWire(transport)));
    },
    async shareIngress({ header, weight, wantRamTurn }, { caller }) {
      const ask = { weight, wantRamTurn };
      return ingressToWire(await handler.shareIngress(fromSource(header, caller), ask));
    },
    async awaitLoaded({ header }, { caller, signal }) {
      return voteToWire(await handler.awaitLoaded(fromSource(header, caller), { signal }));
    },
    async commit({ header, guestPaused }, { caller }) {
      const guest = { paused: guestPaused };
      return commitOutcomeToWire(await handler.commit(fromSource(header, caller), guest));
    },
    async revoke({ header }, { caller }) {
      return { state: peerStateToWire(await handler.revoke(fromSource(header, caller))) };
    },
    async abort({ header }, { caller }) {
      return { state: peerStateToWire(await handler.abort(fromSource(header, caller))) };
    },
    async queryMigration({ header, own }, { caller }) {
      const asked = fromEither(header, caller);
      const state = await handler.queryMigration(asked, own ? peerStateFromWire(own) : NO_RECORD);
      return { state: peerStateToWire(state) };
    },
    async sourceGone({ header }, { caller }) {
      return { state: peerStateToWire(await handler.sourceGone(fromSource(header, caller))) };
    },
  };
}

/**
 * A destination calls its source back. That this fails is seen here, and would be taken by the
 * source for a failure of its own call.
 */
function ofThisSide(error: unknown): never {
  const isCall =
    error instanceof RpcError &&
    (error.reason === 'TLS_PEER_REJECTED' || error.reason === 'PEER_UNREACHABLE');
  if (!isCall || error.side) throw error;
  const { reason, message, cause, facts, hint } = error;
  throw new RpcError(reason, message, {
    cause,
    facts,
    side: 'destination',
    ...(hint === undefined ? {} : { hint }),
  });
}

/** The header of a call that only the source of the migration may make. */
function fromSource(wire: WirePeerHeader | undefined, caller: Caller): PeerHeader {
  const header = headerFromWire(wire);
  if (header.sourceHost !== caller.name) throw notYours(caller, header);
  return header;
}

/** The header of a call that both sides of the migration may make. */
function fromEither(wire: WirePeerHeader | undefined, caller: Caller): PeerHeader {
  const header = headerFromWire(wire);
  if (header.sourceHost !== caller.name && header.destinationHost !== caller.name) {
    throw notYours(caller, header);
  }
  return header;
}

function notYours(caller: Caller, { sourceHost, destinationHost }: PeerHeader): RpcError {
  return new RpcError(
    'PERMISSION_DENIED',
    `${caller.name} may not speak for a migration from ${sourceHost} to ${destinationHost}.`,
  );
}
