import type { Client } from 'nice-grpc';
import type { Transport } from '../channel/types.js';
import type { DiskServerAddress, LaunchSpec, RamServerAddress } from '../domain/launch-spec.js';
import type { DataProbe, WaitOptions } from '../domain/types.js';
import type { PeerHeader as WirePeerHeader } from '../gen/drover/v1/peer_service.js';
import type { PeerAddress } from '../mesh/peers.js';
import type { IngressAnswer, IngressAsk } from '../migration/ingress.js';
import type {
  CommitOutcome,
  PeerCalls,
  PeerHeader,
  PeerState,
  Prepared,
  Vote,
} from '../migration/peer.js';
import { type AgentTarget, type CallSettings, Connection } from './connection.js';
import { launchSpecToWire } from './convert-launch-spec.js';
import { transportToWire } from './convert-migration.js';
import {
  commitOutcomeFromWire,
  headerToWire,
  journalIdFromWire,
  peerStateFromWire,
  peerStateToWire,
  voteFromWire,
} from './convert-peer.js';
import { diskServerFromWire, probeFromWire, ramServerFromWire } from './convert-places.js';
import { peerDefinition } from './peer-definition.js';
import { PEER_CHANNEL_OPTIONS } from './settings.js';
import type { TlsMaterial, TlsSource } from './tls-material.js';

/** The longest that each call may take, in milliseconds. */
const DEADLINES_MS = {
  prepare: 120_000,
  probeData: 10_000,
  exportDisks: 30_000,
  acceptRam: 30_000,
  shareIngress: 5_000,
  awaitLoaded: 20_000,
  commit: 10_000,
  revoke: 30_000,
  abort: 30_000,
  queryMigration: 30_000,
  sourceGone: 30_000,
} as const;

/** The connection that calls share. */
interface Current {
  readonly connection: Connection;
  readonly client: PeerServiceClient;
  /** What it was made with, where that is kept; undefined where files are read each time. */
  readonly material: TlsMaterial | undefined;
}

type Ask = { readonly header: WirePeerHeader };

/**
 * PeerService of one other agent. All calls share one connection, which is made anew, with the
 * certificates as they are then, after it has failed, and for the next call after they have
 * changed.
 */
export class PeerClient implements PeerCalls {
  readonly #target: Extract<AgentTarget, { host: string | undefined }>;
  readonly #host: string;
  #current: Current | undefined;

  constructor(peer: PeerAddress, tls: TlsSource) {
    this.#host = peer.name;
    this.#target = {
      address: peer.address,
      host: peer.name,
      tls,
      unreachable: 'PEER_UNREACHABLE',
    };
  }

  async prepare(
    header: PeerHeader,
    launchSpec: LaunchSpec,
    { signal }: WaitOptions,
  ): Promise<Prepared> {
    const request = { ...ask(header), launchSpec: launchSpecToWire(launchSpec) };
    const { journalId, features } = await this.#client().prepare(request, { signal });
    return { journalId: journalIdFromWire(journalId), features };
  }

  async probeData(header: PeerHeader, { signal }: WaitOptions): Promise<DataProbe> {
    return probeFromWire(await this.#client().probeData(ask(header), { signal }));
  }

  async exportDisks(
    header: PeerHeader,
    transport: Transport,
    { signal }: WaitOptions,
  ): Promise<DiskServerAddress> {
    const request = { ...ask(header), transport: transportToWire(transport) };
    const server = await this.#client().exportDisks(request, { signal });
    return diskServerFromWire(server, transport, this.#host);
  }

  async acceptRam(
    header: PeerHeader,
    transport: Transport,
    { signal }: WaitOptions,
  ): Promise<RamServerAddress> {
    const request = { ...ask(header), transport: transportToWire(transport) };
    const server = await this.#client().acceptRam(request, { signal });
    return ramServerFromWire(server, transport, this.#host);
  }

  async shareIngress(
    header: PeerHeader,
    ingress: IngressAsk,
    { signal }: WaitOptions,
  ): Promise<IngressAnswer> {
    return await this.#client().shareIngress({ ...ask(header), ...ingress }, { signal });
  }

  async awaitLoaded(header: PeerHeader, { signal }: WaitOptions): Promise<Vote> {
    const options = { signal, silent: 'STALLED' } as const;
    return voteFromWire(await this.#client().awaitLoaded(ask(header), options));
  }

  async commit(
    header: PeerHeader,
    guest: { readonly paused: boolean },
    { signal }: WaitOptions,
  ): Promise<CommitOutcome> {
    const request = { ...ask(header), guestPaused: guest.paused };
    return commitOutcomeFromWire(await this.#client().commit(request, { signal }));
  }

  async revoke(header: PeerHeader, { signal }: WaitOptions): Promise<PeerState> {
    const { state } = await this.#client().revoke(ask(header), { signal });
    return peerStateFromWire(state);
  }

  async abort(header: PeerHeader, { signal }: WaitOptions): Promise<PeerState> {
    const { state } = await this.#client().abort(ask(header), { signal });
    return peerStateFromWire(state);
  }

  async queryMigration(
    header: PeerHeader,
    own: PeerState,
    { signal }: WaitOptions,
  ): Promise<PeerState> {
    const request = { ...ask(header), own: peerStateToWire(own) };
    const { state } = await this.#client().queryMigration(request, { signal });
    return peerStateFromWire(state);
  }

  async sourceGone(header: PeerHeader, { signal }: WaitOptions): Promise<PeerState> {
    const { state } = await this.#client().sourceGone(ask(header), { signal });
    return peerStateFromWire(state);
  }

  /** Calls under way go on; a later one connects again. */
  close(): void {
    this.#current?.connection.close();
    this.#current = undefined;
  }

  #client(): PeerServiceClient {
    const { tls } = this.#target;
    const material = 'material' in tls ? tls.material : undefined;
    // One that was made with other certificates would be made again with them after a failure.
    if (this.#current?.material !== material) this.close();
    if (this.#current) return this.#current.client;
    const forget = () => {
      if (this.#current?.connection === connection) this.close();
    };
    const connection = new Connection(this.#target, PEER_CHANNEL_OPTIONS, forget);
    const client = connection.client(peerDefinition, DEADLINES_MS);
    this.#current = { connection, client, material };
    return client;
  }
}

type PeerServiceClient = Client<typeof peerDefinition, CallSettings>;

function ask(header: PeerHeader): Ask {
  return { header: headerToWire(header) };
}
