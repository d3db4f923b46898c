import { PeerServiceDefinition } from '../gen/drover/v1/peer_service.js';
import { strictPrepareRequest } from './prepare-codec.js';

/** PeerService as it is spoken. Server and client must both be made from it. */
export const peerDefinition = {
  ...PeerServiceDefinition,
  methods: {
    ...PeerServiceDefinition.methods,
    prepare: { ...PeerServiceDefinition.methods.prepare, requestType: strictPrepareRequest },
  },
} as const;

const { fullName, methods } = peerDefinition;

/** The path of the call that only waits. */
export const AWAIT_LOADED_PATH = `/${fullName}/${methods.awaitLoaded.name}`;

/** Without these no handover comes to its end. */
export const HANDOVER_PATHS: ReadonlySet<string> = new Set(
  [methods.commit, methods.revoke, methods.abort, methods.queryMigration, methods.sourceGone].map(
    ({ name }) => `/${fullName}/${name}`,
  ),
);
