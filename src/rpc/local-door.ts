import { constants } from 'node:fs';
import { chmod, lstat, mkdtemp, open, rename, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { RpcError } from './errors.js';

/**
 * Listens on a unix socket that only its owner may open, from its first moment on. A socket that an
 * agent left when it was killed is in the way and is replaced; nothing else is. The answer removes
 * the socket, once nobody listens on it any more. `listen` takes an address as gRPC writes it.
 *
 * @throws RpcError `CONFIG_INVALID` where another agent listens there, or nobody can
 */
export async function openLocalDoor(
  path: string,
  listen: (address: string) => Promise<unknown>,
): Promise<() => Promise<void>> {
  const found = await lstat(path).catch(() => undefined);
  if (found && !found.isSocket()) {
    throw new RpcError('CONFIG_INVALID', `${path} is not a socket, so it is left alone.`);
  }
  if (await isInUse(path)) {
    throw new RpcError('CONFIG_INVALID', `Another agent listens on ${path}.`);
  }
  return await listenPrivately(path, listen);
}

/**
 * A socket has the umask's mode when it is made, so it is made where nobody else may go, and is
 * moved when its mode is right. The way there is short, however long the path is.
 */
async function listenPrivately(
  path: string,
  listen: (address: string) => Promise<unknown>,
): Promise<() => Promise<void>> {
  const folder = await makePrivateFolder(path);
  // Node removes a socket by the way it was made, which must not lead elsewhere until then.
  const handle = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    const made = `/proc/self/fd/${handle.fd}/s`;
    await listen(`unix:${made}`);
    await chmod(made, 0o600);
    await rename(made, path);
  } catch (error) {
    await handle.close();
    throw error;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return async () => {
    await handle.close();
    await rm(path, { force: true });
  };
}

async function makePrivateFolder(path: string): Promise<string> {
  try {
    return await mkdtemp(join(dirname(path), '.drover-'));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new RpcError('CONFIG_INVALID', `The agent cannot listen on ${path}: ${why}.`, {
      cause: error,
    });
  }
}

function isInUse(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    const answer = (inUse: boolean) => {
      socket.destroy();
      resolve(inUse);
    };
    socket.on('connect', () => answer(true));
    socket.on('error', () => answer(false));
  });
}
