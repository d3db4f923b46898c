import type { Socket } from 'node:net';

/** One message between two fakes: a JSON header and bytes. */
export interface Frame {
  readonly header: Readonly<Record<string, unknown>>;
  readonly payload: Buffer;
}

/**
 * Frames over a socket, for the two byte streams between fakes. A frame is two lengths of four
 * bytes, then header and payload. Real QEMUs speak NBD and the migration format here; nothing
 * between them looks inside either.
 */
export class FrameSocket {
  readonly socket: Socket;
  /** Resolves when no more frames can come. */
  readonly closed: Promise<void>;
  #buffer: Buffer = Buffer.alloc(0);
  readonly #frames: Frame[] = [];
  #wake: () => void = () => undefined;
  #ended = false;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk) => {
      this.#buffer = this.#buffer.length === 0 ? chunk : Buffer.concat([this.#buffer, chunk]);
      this.#cut();
    });
    // One that was handed over stands still until somebody wants it.
    socket.resume();
    socket.on('error', () => undefined);
    this.closed = new Promise((resolve) => {
      const end = () => {
        this.#ended = true;
        this.#wake();
        resolve();
      };
      socket.on('end', end);
      socket.on('close', end);
    });
  }

  get ended(): boolean {
    return this.#ended;
  }

  /**
   * Sends a frame and waits until the kernel has taken it: back-pressure is real. False if the
   * other end is gone.
   */
  async send(header: Frame['header'], payload: Buffer = Buffer.alloc(0)): Promise<boolean> {
    if (this.socket.destroyed || !this.socket.writable) return false;
    const json = Buffer.from(JSON.stringify(header));
    const lengths = Buffer.alloc(8);
    lengths.writeUInt32BE(json.length, 0);
    lengths.writeUInt32BE(payload.length, 4);
    return new Promise((resolve) => {
      this.socket.write(Buffer.concat([lengths, json, payload]), (error) => resolve(!error));
    });
  }

  /** Returns the next frame, or undefined when the stream has ended. */
  async receive(): Promise<Frame | undefined> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame) return frame;
      if (this.#ended) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #cut(): void {
    while (this.#buffer.length >= 8) {
      const headerEnd = 8 + this.#buffer.readUInt32BE(0);
      const end = headerEnd + this.#buffer.readUInt32BE(4);
      if (this.#buffer.length < end) return;
      this.#frames.push({
        header: JSON.parse(this.#buffer.toString('utf8', 8, headerEnd)) as Frame['header'],
        payload: this.#buffer.subarray(headerEnd, end),
      });
      this.#buffer = this.#buffer.subarray(end);
      this.#wake();
    }
  }
}
