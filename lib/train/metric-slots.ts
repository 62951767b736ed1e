/** Which of the heads' metric slots the batches of a step write, and whether its numbers are still there. */
import { checkArgument } from '../arguments.js';
import { LgdError } from '../errors.js';
import { metricSlots } from '../models/optimizer.js';
import type { StepTicket } from './steps.js';

// Two steps of train.accumulate batches are unread at most.

export class MetricSlots {
  #given = 0;
  /** Those of another distiller would read numbers of other steps. */
  readonly #tickets = new WeakSet<StepTicket>();

  /** How many were given out so far. */
  get given(): number {
    return this.#given;
  }

  /** A slot for a batch. */
  next(): number {
    return this.#given++ % metricSlots;
  }

  /** What a step's numbers are read by. */
  issue(ticket: StepTicket): StepTicket {
    this.#tickets.add(ticket);
    return ticket;
  }

  /** @throws LgdError BAD_OPTION: no ticket of this distiller; later steps have taken its slots */
  check(ticket: StepTicket): void {
    checkArgument('ticket', ticket);
    if (!this.#tickets.has(ticket))
      throw new LgdError('BAD_OPTION', 'this is no ticket of this distiller.', {
        option: 'ticket',
        allowed: 'what its own `await distiller.queueStep()` gave, as it is',
        mend: 'Ask the distiller that took the step',
      });
    if (this.#given - ticket.slotsBefore > metricSlots)
      throw new LgdError('BAD_OPTION', 'later steps have taken the place of these numbers.', {
        option: 'ticket',
        allowed: `that of a step with at most ${metricSlots - ticket.slots.length} batches queued after it`,
        mend: 'Read the numbers of a step before so many are queued',
      });
  }
}
