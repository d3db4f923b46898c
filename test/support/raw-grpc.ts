import { readFileSync } from 'node:fs';
import {
  createFileRegistry,
  type DescMethod,
  type DescService,
  fromBinary,
} from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import {
  Client,
  type ClientReadableStream,
  credentials,
  Metadata,
  type StatusObject,
} from '@grpc/grpc-js';

/** How requests and answers come, in the words of grpc-js. */
export type MethodKind = 'unary' | 'serverStream' | 'clientStream' | 'bidi';

/** What became of a call. */
export interface RawAnswer {
  readonly code: number;
  readonly details: string;
  /** How many messages came before the status, or before the call was ended here. */
  readonly messages: number;
}

/** What is sent; `message` is empty unless it is said. */
export interface RawRequest {
  readonly sends: boolean;
  readonly message?: Buffer;
  readonly metadata?: Metadata;
}

/** Every method that the descriptors have, and the one of reflection, by its path. */
export const METHODS: Readonly<Record<string, MethodKind>> = {
  '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo': 'bidi',
  ...Object.fromEntries(
    describedServices().flatMap(({ typeName, methods }) =>
      methods.map((method) => [`/${typeName}/${method.name}`, kindOf(method.methodKind)]),
    ),
  ),
};

/** The services that this agent has, with the messages that they take. */
export function describedServices(): readonly DescService[] {
  const bytes = readFileSync(new URL('../../src/gen/descriptor.binpb', import.meta.url));
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, bytes));
  return [...registry].filter((one) => one.kind === 'service');
}

function kindOf(kind: DescMethod['methodKind']): MethodKind {
  const kinds = {
    unary: 'unary',
    server_streaming: 'serverStream',
    client_streaming: 'clientStream',
    bidi_streaming: 'bidi',
  } as const;
  return kinds[kind];
}

const LIMIT_MS = 5_000;
const asIs = (bytes: Buffer) => bytes;

/** A client with any certificate, or with none, that checks nothing of ours. */
export function rawClient(
  address: string,
  files: { readonly ca: string; readonly certificate?: string; readonly key?: string },
): Client {
  const [ca, key, certificate] = [files.ca, files.key, files.certificate].map((path) =>
    path === undefined ? null : readFileSync(path),
  );
  return new Client(address, credentials.createSsl(ca ?? null, key, certificate), {
    'grpc.ssl_target_name_override': 'drover',
    'grpc.use_local_subchannel_pool': 1,
    'grpc.enable_retries': 0,
  });
}

/**
 * Calls a method with a message. Where requests are a stream, `sends` says whether the
 * message is sent and the stream ended; otherwise it stays open and empty. A stream of answers is
 * ended by the first one. The limit is 5 seconds.
 */
export function callRaw(
  client: Client,
  path: string,
  kind: MethodKind,
  { sends, message = Buffer.alloc(0), metadata = new Metadata() }: RawRequest,
): Promise<RawAnswer> {
  const options = { deadline: Date.now() + LIMIT_MS };
  return new Promise((resolve) => {
    let messages = 0;
    const end = ({ code, details }: Pick<StatusObject, 'code' | 'details'>) =>
      resolve({ code, details, messages });
    const done = (_error: unknown, answer?: Buffer) => {
      if (answer) messages += 1;
    };
    if (kind === 'unary') {
      const call = client.makeUnaryRequest(path, asIs, asIs, message, metadata, options, done);
      call.on('status', end);
    } else if (kind === 'clientStream') {
      const call = client.makeClientStreamRequest(path, asIs, asIs, metadata, options, done);
      call.on('status', end);
      if (sends) call.end(message);
    } else if (kind === 'serverStream') {
      const call = client.makeServerStreamRequest(path, asIs, asIs, message, metadata, options);
      hear(call);
    } else {
      const call = client.makeBidiStreamRequest(path, asIs, asIs, metadata, options);
      hear(call);
      if (sends) call.end(message);
    }
    function hear(call: ClientReadableStream<Buffer>): void {
      call.on('data', () => {
        messages += 1;
        call.cancel();
      });
      call.on('error', () => {});
      call.on('status', end);
    }
  });
}
