import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ServerCredentials } from '@grpc/grpc-js';
import { createServer, type ServerMiddlewareCall } from 'nice-grpc';
import type { CallContext } from 'nice-grpc-common';
import { errorDetailsServerMiddleware } from 'nice-grpc-error-details';
import { runCli } from '../../src/cli/program.js';
import type { CliEnvironment } from '../../src/cli/session.js';
import {
  DomainServiceDefinition,
  type DomainServiceImplementation,
} from '../../src/gen/drover/v1/domain_service.js';
import {
  HostServiceDefinition,
  type HostServiceImplementation,
} from '../../src/gen/drover/v1/host_service.js';
import {
  MigrationServiceDefinition,
  type MigrationServiceImplementation,
} from '../../src/gen/drover/v1/migration_service.js';
import { serverCredentials } from '../../src/rpc/credentials.js';
import { toServerError } from '../../src/rpc/error-status.js';
import { readTlsFiles, type TlsFiles } from '../../src/rpc/tls-material.js';
import { ReasonedError } from '../../src/util/reasoned-error.js';

/** What the services of a fake agent do; a method not said fails when it is called. */
export interface FakeServices {
  readonly domains?: Partial<DomainServiceImplementation>;
  readonly migrations?: Partial<MigrationServiceImplementation>;
  readonly hosts?: Partial<HostServiceImplementation>;
}

/**
 * Services in this process that answer what a test says, on a unix socket or with TLS on loopback.
 */
export interface FakeServer extends AsyncDisposable {
  /** As `--agent` takes it. */
  readonly address: string;
}

/** Starts one. */
export async function startFakeServices(
  services: FakeServices,
  tls?: TlsFiles,
): Promise<FakeServer> {
  const directory = await mkdtemp(join(tmpdir(), 'drover-cli-'));
  const server = createServer().use(errorDetailsServerMiddleware).use(answerErrors);
  server.add(DomainServiceDefinition, unlessSaid(services.domains));
  server.add(MigrationServiceDefinition, unlessSaid(services.migrations));
  server.add(HostServiceDefinition, unlessSaid(services.hosts));
  const socket = `unix:${join(directory, 'agent.sock')}`;
  const port = tls
    ? await server.listen('127.0.0.1:0', serverCredentials(readTlsFiles(tls)))
    : await server.listen(socket, ServerCredentials.createInsecure());
  return {
    address: tls ? `127.0.0.1:${port}` : socket,
    [Symbol.asyncDispose]: async () => {
      server.forceShutdown();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** What one run of the CLI came to. */
export interface CliResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  /** The lines of stdout as JSON. */
  readonly json: () => Record<string, unknown>[];
}

/** Runs a command line in this process. */
export async function cli(
  args: readonly string[],
  environment: Partial<CliEnvironment> = {},
): Promise<CliResult> {
  let stdout = '';
  let stderr = '';
  const exitCode = await runCli(args, {
    stdout: { write: (text) => (stdout += text) },
    stderr: { write: (text) => (stderr += text) },
    stdin: emptyInput(),
    env: {},
    homeDirectory: '/nonexistent',
    runAgent: async () => {
      throw new Error('The test does not expect an agent.');
    },
    interruption: () => new AbortController().signal,
    doubtPatienceMs: 20_000,
    ...environment,
  });
  const json = () =>
    stdout
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  return { exitCode, stdout, stderr, json };
}

async function* emptyInput(): AsyncGenerator<Uint8Array> {}

async function* answerErrors<Request, Response>(
  call: ServerMiddlewareCall<Request, Response>,
  context: CallContext,
) {
  try {
    return yield* call.next(call.request, context);
  } catch (error) {
    throw error instanceof ReasonedError ? toServerError(error) : error;
  }
}

function unlessSaid<Service extends object>(said: Partial<Service> | undefined): Service {
  return new Proxy((said ?? {}) as Service, {
    get: (service, name) =>
      Reflect.get(service, name) ??
      (() => {
        throw new ReasonedError('INTERNAL', `The test does not expect ${String(name)}.`);
      }),
  });
}
