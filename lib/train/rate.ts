interface Mark {
  /** Milliseconds of training, pauses left out. */
  time: number;
  images: number;
  waited: number;
  teacher: number;
}

/** What {@link RateMeter.step} tells: images a second, and shares of the time from 0 to 1. */
export interface Rates {
  imagesPerSecond: number;
  /** Not spent waiting for the device. */
  dataWait: number;
  /** Spent on a teacher outside the device; part of {@link dataWait}. */
  teacherWait: number;
}

/**
 * Images a second and where the time goes, over a sliding window of steps; pauses (evaluations, checkpoints) do not
 * count.
 */
export class RateMeter {
  readonly #marks: Mark[];
  #paused = 0;
  #images = 0;
  #waited = 0;
  #teacher = 0;

  /** @param window steps to look back over; steps that finish in pairs, as they do in a queue, need two at least */
  constructor(readonly window: number) {
    this.#marks = [{ time: performance.now(), images: 0, waited: 0, teacher: 0 }];
  }

  /** Counts a step: its images, and the milliseconds spent waiting for it and on a teacher outside the device. */
  step(images: number, waited: number, teacher: number): Rates {
    this.#images += images;
    this.#waited += waited;
    this.#teacher += teacher;
    const now: Mark = {
      time: performance.now() - this.#paused,
      images: this.#images,
      waited: this.#waited,
      teacher: this.#teacher,
    };
    const then = this.#marks[0]!;
    this.#marks.push(now);
    if (this.#marks.length > this.window) this.#marks.shift();
    const elapsed = Math.max(now.time - then.time, 1e-6);
    const share = (part: number) => Math.min(1, Math.max(0, part / elapsed));
    return {
      imagesPerSecond: (1000 * (now.images - then.images)) / elapsed,
      dataWait: 1 - share(now.waited - then.waited),
      teacherWait: share(now.teacher - then.teacher),
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
