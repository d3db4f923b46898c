import { findOnPath } from './binary.js';
import { run } from './run.js';

/**
 * Image formats in use. Always named: probing would trust the first bytes, which the guest may have
 * written.
 */
export type ImageFormat = 'raw' | 'qcow2';

/** What is known of an image file. */
export interface ImageInfo {
  /** Size that the guest sees. */
  readonly virtualSizeBytes: number;
  /** Size that it takes on the host now. */
  readonly allocatedBytes: number;
  /** True if it reads data from another file: such an image is not complete in itself. */
  readonly hasBackingFile: boolean;
  /** True if its data lie in another file, which its header names. */
  readonly hasDataFile: boolean;
}

/** How long one operation may take. */
export interface ImageOptions {
  readonly signal?: AbortSignal;
  /** Milliseconds. Default 60 000; for `convert` 3 600 000, because it copies the whole image. */
  readonly limitMs?: number;
}

/** What can be done with image files. Paths are absolute. All reject with ProcessError. */
export interface ImageTool {
  /**
   * Makes an empty, thin image; the size is a multiple of 512. Refuses nothing: the caller made
   * sure the path is free.
   */
  create(
    path: string,
    format: ImageFormat,
    sizeBytes: number,
    options?: ImageOptions,
  ): Promise<void>;
  /** Copies an image, thin stays thin. */
  convert(
    from: string,
    fromFormat: ImageFormat,
    to: string,
    format: ImageFormat,
    options?: ImageOptions,
  ): Promise<void>;
  /** Makes an image larger. What is added reads as zeros. */
  grow(path: string, format: ImageFormat, sizeBytes: number, options?: ImageOptions): Promise<void>;
  info(path: string, format: ImageFormat, options?: ImageOptions): Promise<ImageInfo>;
}

const LIMIT_MS = 60_000;
const COPY_LIMIT_MS = 3_600_000;
/** Whoever made an image decides what qemu-img does with it: 2 GiB, and no core dump. */
const RESOURCES = [`--as=${2 * 1024 ** 3}`, '--core=0'];
/** To look at an image takes milliseconds, in seconds. */
const LOOK_CPU = '--cpu=30';

interface RawInfo {
  readonly 'virtual-size': number;
  readonly 'actual-size': number;
  readonly 'backing-filename'?: string;
  readonly 'format-specific'?: { readonly data?: { readonly 'data-file'?: string } };
}

/**
 * The image tool that runs `qemu-img`. Paths go in as options of the file driver, never as plain
 * names, because qemu-img reads "json:" and protocol prefixes in those.
 */
export class QemuImg implements ImageTool {
  readonly #binary: string;
  #prlimit: Promise<string | undefined> | undefined;

  constructor(binary: string) {
    this.#binary = binary;
  }

  async create(path: string, format: ImageFormat, sizeBytes: number, options: ImageOptions = {}) {
    await this.#run(['create', '-q', '-f', format, fileName(path), String(sizeBytes)], options);
  }

  async convert(
    from: string,
    fromFormat: ImageFormat,
    to: string,
    format: ImageFormat,
    options: ImageOptions = {},
  ) {
    const source = ['--image-opts', imageOptions(from, fromFormat)];
    await this.#run(['convert', ...source, '-O', format, fileName(to)], {
      limitMs: COPY_LIMIT_MS,
      ...options,
    });
  }

  async grow(path: string, format: ImageFormat, sizeBytes: number, options: ImageOptions = {}) {
    await this.#run(
      ['resize', '-q', '--image-opts', imageOptions(path, format), String(sizeBytes)],
      options,
    );
  }

  async info(path: string, format: ImageFormat, options: ImageOptions = {}): Promise<ImageInfo> {
    // A running QEMU holds the image's lock, and reading the size of an image in use is safe.
    const argv = [
      'info',
      '--force-share',
      '--output=json',
      '--image-opts',
      imageOptions(path, format),
    ];
    const info = JSON.parse(await this.#run(argv, options, [LOOK_CPU])) as RawInfo;
    return {
      virtualSizeBytes: info['virtual-size'],
      allocatedBytes: info['actual-size'],
      hasBackingFile: info['backing-filename'] !== undefined,
      hasDataFile: info['format-specific']?.data?.['data-file'] !== undefined,
    };
  }

  async #run(
    argv: readonly string[],
    options: ImageOptions,
    more: readonly string[] = [],
  ): Promise<string> {
    // Part of every usual system; on others qemu-img runs without these limits.
    this.#prlimit ??= findOnPath('prlimit');
    const prlimit = await this.#prlimit;
    const through = prlimit === undefined ? [] : [prlimit, ...RESOURCES, ...more, '--'];
    return await run(this.#binary, argv, { limitMs: LIMIT_MS, through, ...options });
  }
}

/**
 * An absolute path is never read as a protocol ("name:"), because a slash comes before any colon.
 */
function fileName(path: string): string {
  if (!path.startsWith('/')) throw new Error(`An image path must be absolute: ${path}`);
  return path;
}

function imageOptions(path: string, format: ImageFormat): string {
  return `driver=${format},file.driver=file,file.filename=${fileName(path).replaceAll(',', ',,')}`;
}
