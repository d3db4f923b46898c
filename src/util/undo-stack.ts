/** One undo step that did not work. */
export interface UndoFailure {
  readonly step: string;
  readonly error: unknown;
}

/**
 * Undo steps that run in reverse order when the scope ends, unless the work succeeded and released
 * them. A step that fails is reported and the next one runs all the same: an undo must never hide
 * the error that caused it, and one stuck step must not keep the others from being undone. Disposal
 * therefore never throws.
 */
export class UndoStack implements AsyncDisposable {
  #steps: { readonly name: string; readonly undo: () => unknown }[] = [];
  readonly #onFailure: (failure: UndoFailure) => void;

  /** `onFailure` hears of every step that threw; it should log, and must not throw itself. */
  constructor(onFailure: (failure: UndoFailure) => void) {
    this.#onFailure = onFailure;
  }

  /** Adds a step. The name completes the sentence "could not ...". */
  defer(name: string, undo: () => unknown): void {
    this.#steps.push({ name, undo });
  }

  /** Forgets all steps: the work is done and stays. */
  release(): void {
    this.#steps = [];
  }

  /** Moves all steps to a new stack, so that their owner can outlive this scope. */
  move(): UndoStack {
    const moved = new UndoStack(this.#onFailure);
    moved.#steps = this.#steps;
    this.#steps = [];
    return moved;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (let step = this.#steps.pop(); step; step = this.#steps.pop()) {
      try {
        await step.undo();
      } catch (error) {
        this.#onFailure({ step: step.name, error });
      }
    }
  }
}
