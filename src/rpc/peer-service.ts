import type { ServiceImplementation } from 'nice-grpc';
import type { PeerHeader as WirePeerHeader } from '../gen/drover/v1/peer_service.js';
import { NO_RECORD, type PeerHandler, type PeerHeader } from '../migration/peer.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import { diskServerToWire, launchSpecFromWire } from './convert-launch-spec.js';
import {
  commitOutcomeToWire,
  headerFromWire,
  peerStateFromWire,
  peerStateToWire,
  voteToWire,
} from './convert-peer.js';
import { RpcError } from './errors.js';
import type { Caller } from './identity.js';
import type { CallerContext, DroverContext } from './middleware.js';
import type { peerDefinition, RamMessage } from './ram-codec.js';
import { RamStream } from './ram-stream.js';

const TICKET_LIMIT_MS = 10_000;

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
    async exportDisks({ header }, { caller }) {
      return diskServerToWire(await handler.exportDisks(fromSource(header, caller)));
    },
    async acceptRam({ header }, { caller }) {
      const { ticket } = await handler.acceptRam(fromSource(header, caller));
      return { ticket };
    },
    streamRam: (messages, context) => streamRam(handler, messages, context),
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

async function* streamRam(
  handler: PeerHandler,
  messages: AsyncIterable<RamMessage>,
  { caller, signal }: DroverContext,
): AsyncGenerator<RamMessage, void, undefined> {
  const arriving = messages[Symbol.asyncIterator]();
  const ticket = await takeTicket(arriving, signal);
  const stream = new RamStream();
  const onAbort = () => stream.reset(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  const handled = handler.streamRam(ticket, caller.name, stream, { signal });
  // A handler that leaves the stream open, or fails, ends it. This does nothing to one that is
  // complete.
  void handled
    .then(
      () => new RpcError('INTERNAL', 'The stream of RAM was left before both halves had ended.'),
    )
    .catch((error: unknown) => error as Error)
    .then((error) => stream.reset(error));
  void stream.receiveRequests({ [Symbol.asyncIterator]: () => arriving });
  try {
    yield* stream.serverMessages();
    await handled;
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

async function takeTicket(
  messages: AsyncIterator<RamMessage>,
  signal: AbortSignal,
): Promise<string> {
  const missing = () => new RpcError('REQUEST_INVALID', 'StreamRam must begin with a ticket.');
  using limit = withTimeout(signal, TICKET_LIMIT_MS, missing);
  const first = await untilAborted(messages.next(), limit.signal);
  if (first.done || first.value.type !== 'ticket') throw missing();
  return first.value.ticket;
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
