import {
  type Channel,
  ChannelCredentials,
  type ChannelOptions,
  connectivityState,
} from '@grpc/grpc-js';
import {
  type Client,
  type CompatServiceDefinition,
  createChannel,
  createClientFactory,
} from 'nice-grpc';
import { type DeadlineOptions, deadlineMiddleware } from 'nice-grpc-client-middleware-deadline';
import { ClientError, type ClientMiddleware } from 'nice-grpc-common';
import { errorDetailsClientMiddleware } from 'nice-grpc-error-details';
import { formatAddress, parseAddress } from '../util/address.js';
import { deferred } from '../util/deferred.js';
import { untilAborted } from '../util/linked-signal.js';
import type { Reason } from '../util/reasons.js';
import { channelCredentials } from './credentials.js';
import { isConnectionFailure, toReasonedError } from './error-status.js';
import type { RpcError } from './errors.js';
import { type DialledAgent, explainFailure, explainSocketFailure } from './probe.js';
import { CHANNEL_OPTIONS, TLS_CHANNEL_OPTIONS } from './settings.js';
import { materialNow, type TlsSource } from './tls-material.js';

/** What our middleware adds to the options of a call. */
export interface CallSettings extends DeadlineOptions {
  /**
   * What it means that no answer comes before the deadline; otherwise it is that the agent is out
   * of reach.
   */
  readonly silent?: Reason;
}

/** An agent to be called. */
export type AgentTarget =
  | {
      /** `host:port` */
      readonly address: string;
      readonly tls: TlsSource;
      /** The host whose agent it must be; undefined accepts any. */
      readonly host: string | undefined;
      readonly unreachable: DialledAgent['unreachable'];
    }
  | {
      /** The absolute path of its unix socket. */
      readonly socketPath: string;
    };

/**
 * A channel to one agent, whose clients throw ReasonedErrors. Close it, or the process stays alive.
 */
export class Connection {
  readonly #channel: Channel;
  readonly #name: string;
  readonly #unreachable: DialledAgent['unreachable'];
  readonly #explain: () => Promise<RpcError>;
  readonly #onFailure: () => void;

  /**
   * Takes the certificates of now; connects with the first call. `onFailure` hears that there is no
   * connection, or no longer one.
   *
   * @throws RpcError `CONFIG_INVALID` where the files cannot be used
   */
  constructor(target: AgentTarget, options: ChannelOptions = {}, onFailure: () => void = () => {}) {
    this.#onFailure = onFailure;
    if ('socketPath' in target) {
      this.#name = `the agent at ${target.socketPath}`;
      this.#unreachable = 'AGENT_UNREACHABLE';
      this.#explain = () => explainSocketFailure(target.socketPath);
      // Three slashes, because nice-grpc would add a port to a path behind one colon.
      this.#channel = createChannel(
        `unix://${target.socketPath}`,
        ChannelCredentials.createInsecure(),
        { ...CHANNEL_OPTIONS, ...options },
      );
      return;
    }
    const address = formatAddress(parseAddress(target.address));
    const material = materialNow(target.tls);
    const expected = { trustDomain: material.identity.trustDomain, host: target.host };
    const { unreachable } = target;
    this.#name = target.host
      ? `the agent of ${target.host} (${address})`
      : `the agent at ${address}`;
    this.#unreachable = unreachable;
    this.#explain = () => explainFailure({ address, material, expected, unreachable });
    this.#channel = createChannel(address, channelCredentials(material, expected), {
      ...CHANNEL_OPTIONS,
      ...TLS_CHANNEL_OPTIONS,
      ...options,
    });
  }

  /** A client for one service. `deadlines` are in milliseconds, by method; others have none. */
  client<Service extends CompatServiceDefinition>(
    definition: Service,
    deadlines: Readonly<Record<string, number>>,
  ): Client<Service, CallSettings> {
    const defaults = Object.entries(deadlines).map(([method, deadline]) => [method, { deadline }]);
    return createClientFactory()
      .use(errorDetailsClientMiddleware)
      .use(deadlineMiddleware)
      .use(this.#reasons())
      .create(definition, this.#channel, Object.fromEntries(defaults));
  }

  /**
   * Connects now.
   *
   * @throws RpcError `TLS_PEER_REJECTED`, or that the agent is out of reach
   */
  async ready(options: { readonly signal: AbortSignal }): Promise<void> {
    const { READY, TRANSIENT_FAILURE, SHUTDOWN } = connectivityState;
    for (;;) {
      const state = this.#channel.getConnectivityState(true);
      if (state === READY) return;
      if (state === TRANSIENT_FAILURE || state === SHUTDOWN) {
        this.#onFailure();
        throw await this.#explain();
      }
      const changed = deferred();
      this.#channel.watchConnectivityState(state, Infinity, () => changed.resolve());
      await untilAborted(changed.promise, options.signal);
    }
  }

  /** Calls that are under way go on; new ones fail. */
  close(): void {
    this.#channel.close();
  }

  /**
   * Turns what gRPC throws into errors with a reason, and asks why when there was no connection.
   */
  #reasons(): ClientMiddleware<{ readonly silent?: Reason }> {
    const fail = (error: unknown, silent: Reason) => this.#failure(error, silent);
    const unreachable = this.#unreachable;
    return async function* reasons(call, { silent, ...options }) {
      try {
        return yield* call.next(call.request, options);
      } catch (error) {
        if (options.signal?.aborted) throw options.signal.reason;
        throw await fail(error, silent ?? unreachable);
      }
    };
  }

  async #failure(error: unknown, silent: Reason): Promise<unknown> {
    if (isConnectionFailure(error)) {
      this.#onFailure();
      return await this.#explain();
    }
    if (!(error instanceof ClientError)) return error;
    return toReasonedError(error, {
      agent: this.#name,
      unreachable: this.#unreachable,
      silent,
    });
  }
}
