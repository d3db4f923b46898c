import { Socket } from 'node:net';
import { getSystemErrorName } from 'node:util';

/*
 * Sockets can be handed to another process over a unix socket. Node does that for the processes
 * that it starts, with pipes of its own, and has no public name for it. These are those pipes;
 * where a version of Node has them no more, `canHandSockets` says so and nothing can be handed.
 */

/** A handle of Node's, as far as it is needed. */
interface Handle {
  connect(request: object, path: string): number;
  writeUtf8String(request: object, text: string, handle?: object): number;
  setBlocking?(blocking: boolean): number;
}

interface PipeBinding {
  readonly Pipe: new (type: number) => Handle;
  readonly PipeConnectWrap: new () => { oncomplete?: (status: number) => void };
  readonly constants: { readonly IPC: number };
}

interface StreamBinding {
  readonly WriteWrap: new () => { oncomplete?: (status: number) => void; async?: boolean };
}

interface Bindings extends PipeBinding, StreamBinding {}

const bindings = findBindings();

/** Whether this Node can hand a connected socket to QEMU. */
export const canHandSockets = bindings !== undefined;

/** Connects to the unix socket at `path`; the answer may hand sockets over where Node can. */
export function connectHanding(path: string): Socket {
  if (!bindings) return new Socket().connect(path);
  const { Pipe, PipeConnectWrap, constants } = bindings;
  const pipe = new Pipe(constants.IPC);
  const socket = new Socket({ handle: pipe, manualStart: true } as object);
  // Whoever reads or writes before waits for it, as with any socket.
  const state = socket as { connecting: boolean };
  state.connecting = true;
  const request = new PipeConnectWrap();
  const fail = (status: number) => {
    const code = getSystemErrorName(status);
    socket.destroy(Object.assign(new Error(`connect ${code} ${path}`), { code, errno: status }));
  };
  request.oncomplete = (status) => {
    if (socket.destroyed) return;
    state.connecting = false;
    if (status !== 0) return fail(status);
    socket.emit('connect');
    socket.read(0);
  };
  const status = pipe.connect(request, path);
  if (status !== 0) process.nextTick(fail, status);
  return socket;
}

/**
 * Writes a text, and with its first byte the socket. The one who reads gets a socket of its own to
 * the same connection: this one is to be destroyed without a word, and never to be read from again.
 *
 * @throws Error where this Node cannot, or a socket has ended
 */
export function writeWithSocket(over: Socket, text: string, handed: Socket): void {
  const pipe = handleOf(over);
  const handle = handleOf(handed);
  if (!bindings || !pipe || !handle) throw new Error('The socket cannot be handed over.');
  const request = new bindings.WriteWrap();
  request.async = false;
  // What cannot be written ends the connection, and whoever waits for the answer hears of that.
  request.oncomplete = () => undefined;
  const status = pipe.writeUtf8String(request, text, handle);
  if (status !== 0) throw new Error(`The socket could not be handed over (${status}).`);
}

/**
 * Lets nobody wait in a read or write of the connection any more. QEMU makes what it is handed
 * blocking, and would then do its part of TLS with its main loop, and the guest's devices, held. To
 * be called when QEMU has it, and before it uses it.
 */
export function unblock(handed: Socket): void {
  const handle = handleOf(handed);
  const status = handle?.setBlocking?.(false);
  if (status !== 0) throw new Error(`The socket could not be made non-blocking (${status}).`);
}

function handleOf(socket: Socket): Handle | undefined {
  return (socket as Socket & { readonly _handle?: Handle | null })._handle ?? undefined;
}

function findBindings(): Bindings | undefined {
  const { binding } = process as unknown as { binding?: (name: string) => object };
  try {
    const pipe = binding?.('pipe_wrap') as Partial<PipeBinding> | undefined;
    const stream = binding?.('stream_wrap') as Partial<StreamBinding> | undefined;
    const { Pipe, PipeConnectWrap, constants } = pipe ?? {};
    const { WriteWrap } = stream ?? {};
    if (!Pipe || !PipeConnectWrap || !WriteWrap || constants?.IPC === undefined) return undefined;
    return { Pipe, PipeConnectWrap, WriteWrap, constants };
  } catch {
    return undefined;
  }
}
