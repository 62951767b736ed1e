/** The list of images that a run leaves out. */
import { counted } from '../counted.js';
import type { BrokenImage } from '../data/decode.js';
import type { RunFolder } from '../runs/run-folder.js';
import type { Course } from './course.js';
import { goneReason } from './resume/image-list.js';

/** Keeps broken-images.txt up with images that could not be decoded, and with those that are gone. */
export class BrokenList {
  /** How many the data set had when they were listed last. */
  #listed = 0;
  /** Listed before the run was left. */
  #before: readonly BrokenImage[] = [];

  constructor(
    private readonly course: Pick<Course, 'images' | 'dataset'>,
    private readonly folder: RunFolder,
  ) {}

  /** All images left out. */
  get images(): BrokenImage[] {
    const { gone } = this.course.images;
    const all = [...this.#before, ...(this.course.dataset.broken ?? []), ...gone];
    return [...new Map(all.map((image) => [image.id, image])).values()];
  }

  /**
   * Takes up the list of a run that goes on: images that are decoded while training goes on are known to be broken only
   * once their turn has come again.
   */
  async recall(): Promise<void> {
    if (this.course.dataset.decoded === undefined) return;
    this.#before = (await this.folder.listedBroken()).filter(({ reason }) => reason !== goneReason);
  }

  /** Lists them as a run begins. */
  async begin(): Promise<void> {
    await this.folder.listBroken(this.images);
    this.#listed = this.course.dataset.broken?.length ?? 0;
    const { gone } = this.course.images;
    if (gone.length > 0)
      await this.folder.log(
        `${counted(gone.length, 'image is', 'images are')} gone since the run began (broken-images.txt lists which); ` +
          'others stand in',
      );
  }

  /** Lists those that turned out to be broken meanwhile, where images are decoded while training goes on. */
  async update(): Promise<void> {
    const { length } = this.course.dataset.broken ?? [];
    if (length === this.#listed) return;
    this.#listed = length;
    const broken = this.images;
    await this.folder.listBroken(broken);
    await this.folder.log(
      `${counted(broken.length, 'image')} cannot be decoded so far (broken-images.txt lists which); ` +
        'others stand in',
    );
  }
}
