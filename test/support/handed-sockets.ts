import { Socket } from 'node:net';

/*
 * The other end of `QmpClient.handOver`: a server whose connections take sockets along. Node makes
 * only plain pipes of what a server accepts, so each is opened once more as one that does.
 */

interface Pipe {
  readonly fd: number;
  open(fd: number): void;
  /** What has come with the bytes that were read last. */
  pendingHandle?: object | null;
}

interface PipeBinding {
  readonly Pipe: new (type: number) => Pipe;
  readonly constants: { readonly IPC: number };
}

const { Pipe, constants } = (process as unknown as { binding(name: string): PipeBinding }).binding(
  'pipe_wrap',
);

/** Their descriptors belong to the sockets made of them, so they are never closed. */
const opened: Socket[] = [];

/** Makes of a socket that a server with `pauseOnConnect` has accepted one that takes sockets along. */
export function taking(accepted: Socket): Socket {
  opened.push(accepted);
  accepted.unref();
  const pipe = new Pipe(constants.IPC);
  pipe.open((accepted as unknown as { _handle: Pipe })._handle.fd);
  return new Socket({ handle: pipe } as object);
}

/** The socket that came with the bytes of the `data` event that goes on, if one did. */
export function takenWith(socket: Socket): Socket | undefined {
  const pipe = (socket as unknown as { _handle: Pipe | null })._handle;
  const handle = pipe?.pendingHandle;
  if (!pipe || !handle) return undefined;
  pipe.pendingHandle = null;
  return new Socket({ handle, pauseOnCreate: true } as object);
}
