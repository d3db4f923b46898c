import type { Client } from 'nice-grpc';
import type { ByteStream } from '../channel/types.js';
import type { DiskServerAddress, LaunchSpec } from '../domain/launch-spec.js';
import type { WaitOptions } from '../domain/types.js';
import type { PeerHeader as WirePeerHeader } from '../gen/drover/v1/peer_service.js';
import type { PeerAddress } from '../mesh/peers.js';
import type {
  CommitOutcome,
  PeerCalls,
  PeerHeader,
  PeerState,
  Prepared,
  Vote,
} from '../migration/peer.js';
import { withTimeout } from '../util/linked-signal.js';
import { type AgentTarget, type CallSettings, Connection } from './connection.js';
import { diskServerFromWire, launchSpecToWire } from './convert-launch-spec.js';
import {
  commitOutcomeFromWire,
  headerToWire,
  journalIdFromWire,
  peerStateFromWire,
  peerStateToWire,
  ticketFromWire,
  voteFromWire,
} from './convert-peer.js';
import type { TlsMaterial, TlsSource } from './credentials.js';
import { RpcError } from './errors.js';
import { peerDefinition } from './ram-codec.js';
import { RamStream } from './ram-stream.js';
import { PEER_CHANNEL_OPTIONS, RAM_CHANNEL_OPTIONS } from './settings.js';

/** The longest that each call may take, in milliseconds. */
const DEADLINES_MS = {
  prepare: 120_000,
  exportDisks: 30_000,
  acceptRam: 30_000,
  awaitLoaded: 20_000,
  commit: 10_000,
  revoke: 30_000,
  abort: 30_000,
  queryMigration: 30_000,
  sourceGone: 30_000,
} as const;

const OPEN_RAM_LIMIT_MS = 30_000;

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
 * changed. RAM travels on connections of its own.
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

  async exportDisks(header: PeerHeader, { signal }: WaitOptions): Promise<DiskServerAddress> {
    return diskServerFromWire(await this.#client().exportDisks(ask(header), { signal }));
  }

  async acceptRam(
    header: PeerHeader,
    { signal }: WaitOptions,
  ): Promise<{ readonly ticket: string }> {
    const { ticket } = await this.#client().acceptRam(ask(header), { signal });
    return { ticket: ticketFromWire(ticket) };
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

  /**
   * Resolves when the connection stands. What the peer thinks of the ticket comes with the first
   * read or write.
   */
  async openRam(ticket: string, { signal }: WaitOptions): Promise<ByteStream> {
    const connection = new Connection(this.#target, RAM_CHANNEL_OPTIONS);
    try {
      using limit = withTimeout(signal, OPEN_RAM_LIMIT_MS, () => this.#silent('StreamRam'));
      await connection.ready({ signal: limit.signal });
    } catch (error) {
      connection.close();
      throw error;
    }
    const call = new AbortController();
    const stream = new RamStream((reason) => call.abort(reason));
    const answers = connection
      .client(peerDefinition, {})
      .streamRam(stream.clientMessages(ticket), { signal: call.signal });
    void stream.receiveAnswers(answers).finally(() => connection.close());
    return stream;
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

  #silent(method: string): RpcError {
    return new RpcError(
      'PEER_UNREACHABLE',
      `The agent of ${this.#host} (${this.#target.address}) did not answer ${method} in time.`,
    );
  }
}

type PeerServiceClient = Client<typeof peerDefinition, CallSettings>;

function ask(header: PeerHeader): Ask {
  return { header: headerToWire(header) };
}
