/** Vendors whose drawings the teacher and the student are trained on. */
export const trainingVendors = ['noto', 'noto-v1', 'twemoji', 'emojione'];
/** The vendor neither has seen. */
export const heldOutVendor = 'fluent-emoji-flat';
