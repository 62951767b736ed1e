import { dirname } from 'node:path';
import { Command } from 'commander';
import { counted } from '../counted.js';
import { LgdError } from '../errors.js';
import { tryFolder } from '../files/make-folder.js';
import { checkReplaceable } from '../files/replaceable.js';
import { PrecomputedTeacher } from '../models/index.js';
import { computeEmbeddings } from '../predict/embeddings.js';
import type { Bind } from './command.js';
import { lookingHelp, lookingOptions, tellLooked } from './looked.js';
import { needlessWithoutTeacher, refuseNeedless } from './needless.js';
import { addConfigOptions, readConfig } from './options.js';
import { phaseReporter } from './run-report.js';

export function embedCommand(bind: Bind): Command {
  const command = new Command('embed')
    .description(
      'write the embeddings that a student or a teacher gives images: to search with, or as a teacher that is a file',
    )
    .argument('<images...>', 'a folder, a pack, tar shards, CIFAR or parquet files; or image files')
    .option('--student <path>', 'a run folder, a checkpoint folder, or a student file, exported or not')
    .requiredOption(
      '--to, --output <file>',
      'the .safetensors file to write: embeddings [N,D], and the ids of the images',
    );
  addConfigOptions(command, [...lookingOptions, 'teacher', 'teacherResolution'], {
    help: {
      ...lookingHelp,
      teacher: 'Folder or hub id of a model, or an .onnx image tower, in the place of --student',
    },
  });
  return command.action(
    bind(async ({ terminal, signal }, images) => {
      const { student, output } = command.opts<{ student?: string; output: string }>();
      const config = await readConfig(command);
      if ((student === undefined) === (config.teacher === undefined))
        throw new LgdError('BAD_OPTION', 'images are embedded by a student or by a teacher.', {
          option: 'student',
          found: student,
          mend: 'Give one of --student and --teacher',
        });
      refuseNeedless(command, config, [needlessWithoutTeacher]);
      await checkReplaceable(output, 'safetensors', {
        option: 'output',
        inputs: [student, config.teacher].filter((input) => input !== undefined),
      });
      const removeEmpty = await tryFolder(dirname(output));
      try {
        const phases = phaseReporter(terminal, config.log.stallMinutes);
        const found = await phases.during(
          computeEmbeddings({ student, images: images as string[], config, signal, onProgress: phases.onProgress }),
        );
        const { ids, embeddings, embeddingSize, id, resolution, mean, std } = found;
        await PrecomputedTeacher.save(output, ids, embeddings, { id, resolution, mean, std });
        tellLooked(terminal, found, { file: output, id, embeddingSize });
        terminal.say(`${output}: ${counted(ids.length, 'image')}, ${embeddingSize} values each, by ${id}`);
      } finally {
        await removeEmpty();
      }
    }),
  );
}
