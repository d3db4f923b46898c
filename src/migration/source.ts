import type { Domain, OutgoingDomain } from '../domain/types.js';
import type { SourceContext } from './context.js';
import type { DestinationPeer, Twin } from './destination-peer.js';

/**
 * The source's half of a migration, top to bottom.
 *
 * On success the guest no longer runs here; on any error it runs here again (or stays paused, where
 * its user had paused it).
 */
export async function migrateToPeer(
  domain: Domain,
  peer: DestinationPeer,
  context: SourceContext,
): Promise<void> {
  const { signal } = context;

  // Seed steps 1 and 2: send the launch parameters; the destination starts QEMU with -incoming
  // defer.
  await context.enter('prepare');
  const launchSpec = await domain.launchSpec({ signal });
  await using twin = await peer.prepare(launchSpec, { signal });
  // From QEMU to QEMU where the destination's data ports can be reached, else through both agents.
  const transport = await context.chooseTransport((options) => twin.openProbe(options));

  // Seed steps 3 and 4: mirror every disk into the destination's NBD server on the port it handed
  // back, and wait for BLOCK_JOB_READY.
  await context.enter('mirror');
  const { fresh, limits } = context;
  const server = await twin.exportDisks(transport, { signal });
  await using mirrors = await domain.mirror(launchSpec.disks, server, limits, { signal, fresh });
  context.observeMirrors(mirrors);
  await mirrors.ready({ signal });

  // Seed steps 6 and 5: the destination runs migrate-incoming, then RAM streams while the guest
  // runs. From `activate` on a write is acknowledged to the guest only when both images have it. A
  // stream that breaks is begun again, into another QEMU on the same images: until the mirrors
  // settle they are as good as before.
  await context.enter('precopy');
  const { sent, pause } = await context.untilPaused(
    async () => domain.sendRam(await twin.acceptRam(transport, { signal }), limits, { signal }),
    () => mirrors.activate({ signal }),
    () => twin.present({ signal }),
  );
  await using ram = sent;

  // The guest is paused from here on. The mirrors settle before the last RAM is sent, so that the
  // destination never starts on old blocks.
  context.note('stopped', pause.stoppedAtUs);
  await context.enter('switchover', { paused: pause.guestPaused });
  await mirrors.settle({ signal });
  await mirrors.detach();
  context.note('settled');
  await ram.finish({ signal });
  context.note('completed');
  const vote = await twin.loaded({ signal });
  context.note('loaded');

  // Seed step 7: the source gives the guest up in writing, the destination takes it in writing and
  // resumes it. `handOver` keeps asking a lost peer and throws only when the destination never took
  // the guest.
  await context.enter('handover');
  await twin.handOver(pause, await ram.guard({ signal }));
  ram.release();

  await context.enter('cleanup');
  await context.summarize(launchSpec, vote);
  await domain.retire(peer.host);
  await twin.sourceGone();
}

/**
 * The last part again, for an agent whose earlier life ended after it had given the guest up:
 * nothing is undone before the destination has answered.
 */
export async function finishHandover(
  domain: OutgoingDomain | undefined,
  twin: Twin,
  pause: { readonly guestPaused: boolean },
  context: SourceContext,
): Promise<void> {
  await twin.handOver(pause);
  await context.enter('cleanup');
  await domain?.retire(twin.host);
  await twin.sourceGone();
}
