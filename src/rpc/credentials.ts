import { createSecureContext } from 'node:tls';
import { ChannelCredentials, ServerCredentials } from '@grpc/grpc-js';
import {
  checkAgent,
  contextOptions,
  type ExpectedAgent,
  MIN_VERSION,
  type TlsMaterial,
} from './tls-material.js';

/** Credentials of a server that takes only callers with a certificate of the CA. */
export function serverCredentials(material: TlsMaterial): MutualTlsCredentials {
  return new MutualTlsCredentials(material);
}

/** Credentials of a channel to one agent, whose certificate must name the host that was dialled. */
export function channelCredentials(
  material: TlsMaterial,
  expected: ExpectedAgent,
): ChannelCredentials {
  return ChannelCredentials.createFromSecureContext(createSecureContext(contextOptions(material)), {
    checkServerIdentity: checkAgent(expected),
    // An environment variable of Node's would take anybody otherwise.
    rejectUnauthorized: true,
  });
}

/** grpc-js has no setting for the lowest version of TLS, but takes credentials that have one. */
export class MutualTlsCredentials extends ServerCredentials {
  constructor(material: TlsMaterial) {
    super(
      { requestCert: true, rejectUnauthorized: true, minVersion: MIN_VERSION },
      contextOptions(material),
    );
  }

  /** Uses other files from now on; connections that stand go on. */
  use(material: TlsMaterial): void {
    this.updateSecureContextOptions(contextOptions(material));
  }

  override _equals(other: ServerCredentials): boolean {
    return this === other;
  }
}
