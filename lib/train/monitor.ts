/** Watches the loss: the running median for outliers, and a smoothed value that tells checkpoints apart. */

/** Plain data, part of every checkpoint. */
export interface MonitorState {
  /** The last losses, oldest first. */
  recent: number[];
  /** Sum of smoothing^(n - i) loss_i, and of smoothing^(n - i). */
  weighted: number;
  weight: number;
}

const window = 101;
const enough = 20; // fewer losses give no median worth stopping for
const smoothing = 0.98;

export class LossMonitor {
  #recent: number[] = [];
  #weighted = 0;
  #weight = 0;

  /** @param factor a loss above this many times the running median is an outlier; 0: none is */
  constructor(readonly factor: number) {}

  /** Exponential moving average of the loss (0.98 a step, corrected for its start); NaN before the first. */
  get smoothed(): number {
    return this.#weighted / this.#weight;
  }

  /** Begins the moving average anew: losses from here on are of another measure. */
  restart(): void {
    this.#weighted = this.#weight = 0;
  }

  /** Median of the last 101 losses; NaN before the first. */
  get median(): number {
    const sorted = [...this.#recent].sort((a, b) => a - b);
    return sorted.length === 0 ? NaN : sorted[Math.floor(sorted.length / 2)]!;
  }

  /** Takes the loss of a step in; says what is wrong with it, or undefined. An outlier is not taken in. */
  check(loss: number): string | undefined {
    if (!Number.isFinite(loss)) return `the loss is ${loss}`;
    if (this.factor > 0 && this.#recent.length >= enough) {
      const { median } = this;
      if (loss > this.factor * median)
        return `the loss is ${loss.toPrecision(6)}, more than ${this.factor} times the running median of ${median.toPrecision(6)}`;
    }
    this.#recent.push(loss);
    if (this.#recent.length > window) this.#recent.shift();
    this.#weighted = smoothing * this.#weighted + loss;
    this.#weight = smoothing * this.#weight + 1;
    return undefined;
  }

  state(): MonitorState {
    return { recent: [...this.#recent], weighted: this.#weighted, weight: this.#weight };
  }

  restore({ recent, weighted, weight }: MonitorState): void {
    this.#recent = [...recent];
    this.#weighted = weighted;
    this.#weight = weight;
  }
}
