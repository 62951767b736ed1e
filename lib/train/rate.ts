interface Mark {
  /** Milliseconds of training, pauses left out. */
  time: number;
  images: number;
  waited: number;
}

/** Images a second and the share of time not spent waiting for the device, over a sliding window of steps; pauses (evaluations, checkpoints) do not count. */
export class RateMeter {
  readonly #marks: Mark[];
  #paused = 0;
  #images = 0;
  #waited = 0;

  /** @param window steps to look back over; steps that finish in pairs, as they do in a queue, need two at least */
  constructor(readonly window: number) {
    this.#marks = [{ time: performance.now(), images: 0, waited: 0 }];
  }

  /** Counts a step: its images, and the milliseconds spent waiting for it. */
  step(images: number, waited: number): { imagesPerSecond: number; dataWait: number } {
    this.#images += images;
    this.#waited += waited;
    const now: Mark = { time: performance.now() - this.#paused, images: this.#images, waited: this.#waited };
    const then = this.#marks[0]!;
    this.#marks.push(now);
    if (this.#marks.length > this.window) this.#marks.shift();
    const elapsed = Math.max(now.time - then.time, 1e-6);
    return {
      imagesPerSecond: (1000 * (now.images - then.images)) / elapsed,
      dataWait: Math.min(1, Math.max(0, 1 - (now.waited - then.waited) / elapsed)),
    };
  }

  /** Stops the clock; call the result to start it again. */
  pause(): () => void {
    const from = performance.now();
    return () => {
      this.#paused += performance.now() - from;
    };
  }
}
