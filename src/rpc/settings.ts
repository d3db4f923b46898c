import type { ChannelOptions } from '@grpc/grpc-js';
import { TLS_NAME } from './identity.js';
import {
  type ConnectionLimits,
  MESSAGE_LIMIT_BYTES,
  SESSION_MEMORY_MIB,
  STREAMS_PER_CONNECTION,
} from './limits.js';

/*
 * The settings of gRPC, for servers and channels side by side because they must fit each other.
 */

/** How long connecting may take, TLS and HTTP/2 included. */
const CONNECT_LIMIT_MS = 5_000;

/** A peer that answers no ping for 10 seconds in all is gone. */
const KEEPALIVE: ChannelOptions = {
  'grpc.keepalive_time_ms': 5_000,
  'grpc.keepalive_timeout_ms': 5_000,
};

/** For servers. */
export function serverOptions({ idleMs }: Pick<ConnectionLimits, 'idleMs'>): ChannelOptions {
  return {
    ...KEEPALIVE,
    'grpc.max_receive_message_length': MESSAGE_LIMIT_BYTES,
    'grpc.max_concurrent_streams': STREAMS_PER_CONNECTION,
    'grpc.max_connection_idle_ms': idleMs,
    'grpc-node.max_session_memory': SESSION_MEMORY_MIB,
  };
}

/** For every channel. */
export const CHANNEL_OPTIONS: ChannelOptions = {
  ...KEEPALIVE,
  'grpc.enable_http_proxy': 0,
  'grpc.service_config_disable_resolution': 1,
  // Connections are made with one certificate for one host, so none is shared.
  'grpc.use_local_subchannel_pool': 1,
  // The name is odd, but this is the time limit for connecting.
  'grpc.min_reconnect_backoff_ms': CONNECT_LIMIT_MS,
  'grpc.initial_reconnect_backoff_ms': 200,
  'grpc.max_reconnect_backoff_ms': 2_000,
  'grpc.max_receive_message_length': 16 * 1024 * 1024,
};

/**
 * For channels with TLS: every agent's certificate carries this DNS name; its URI is checked
 * besides.
 */
export const TLS_CHANNEL_OPTIONS: ChannelOptions = { 'grpc.ssl_target_name_override': TLS_NAME };

/** For channels to other agents, which are trusted with no more than callers are. */
export const PEER_CHANNEL_OPTIONS: ChannelOptions = {
  'grpc.max_receive_message_length': MESSAGE_LIMIT_BYTES,
};
