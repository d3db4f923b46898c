/** The steps of a destination's flow: each is run once, however often the source asks for it. */
export class Steps {
  readonly #known = new Map<string, Promise<unknown>>();
  readonly #bodies = new Set<Promise<unknown>>();
  readonly #controller = new AbortController();

  /** Runs a step, or answers with the run that is known. `failed` hears of one that fails. */
  run<T>(
    name: string,
    body: (signal: AbortSignal) => Promise<T>,
    failed: (error: unknown) => Promise<void>,
  ): Promise<T> {
    const known = this.#known.get(name);
    if (known !== undefined) return known as Promise<T>;
    const running = this.#run(body, failed);
    this.#known.set(name, running);
    return running;
  }

  /** Runs something that is no step: it may be asked for again, and its failure ends nothing. */
  async during<T>(body: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return await this.#run(body, async () => undefined);
  }

  /** Ends what is under way and lets nothing begin; resolves when all of it has come to rest. */
  async end(error: Error): Promise<void> {
    this.#controller.abort(error);
    await Promise.allSettled(this.#bodies);
  }

  async #run<T>(
    body: (signal: AbortSignal) => Promise<T>,
    failed: (error: unknown) => Promise<void>,
  ): Promise<T> {
    const { signal } = this.#controller;
    try {
      signal.throwIfAborted();
      const running = body(signal);
      this.#bodies.add(running);
      return await running;
    } catch (error) {
      await failed(error);
      throw error;
    }
  }
}
