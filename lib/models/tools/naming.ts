/** How another tool names a student's layers. */
import type { GraphNode } from '../../addon/native.js';
import { LgdError } from '../../errors.js';
import type { GraphSpec } from '../graph.js';
import { isProjection, nameWithWidth, type StudentDefinition } from '../students/definition.js';

/**
 * The tools whose names are known. This package's own names are torchvision's, or timm's of a student that torchvision
 * lacks.
 */
export const tools = ['torchvision', 'timm', 'mmdet', 'mmseg', 'detectron2'] as const;
export type Tool = (typeof tools)[number];

/** A student, as far as its names depend on it. */
export interface NamedStudent {
  architecture: string;
  widthMultiplier: number;
  /** With its projection head. */
  graph: GraphSpec;
}

/** A student's names in a tool. */
export interface ToolNaming {
  /** The architecture's name there. */
  model: string;
  /**
   * This package's module -> the tool's. Modules that the tool's architecture lacks are left out; of the head there are
   * two, `head.0` and `head.2`, where it has a place for it.
   */
  modules: ReadonlyMap<string, string>;
  /** eps of the tool's norms, where it is fixed by the architecture's name and may be another than the student's. */
  eps?: number;
  /** What the tool's configuration says of the architecture besides its name; torchvision has none. */
  options?: Readonly<Record<string, unknown>>;
}

/**
 * Names a family's students in a tool. For one that the tool lacks, as at some width, it throws what `refuse` makes of
 * those that it has.
 */
export type FamilyNaming = (
  student: NamedStudent,
  definition: StudentDefinition,
  refuse: (allowed: string) => LgdError,
) => ToolNaming;

/** The error for a student that a tool has no architecture for, or one of which no names are known here. */
export function unsupported(
  tool: Tool,
  { architecture, widthMultiplier }: Pick<NamedStudent, 'architecture' | 'widthMultiplier'>,
  allowed: string,
  mend: string,
): LgdError {
  const found = nameWithWidth(architecture, widthMultiplier);
  return new LgdError('BAD_OPTION', `${tool} has no ${found} under names known here.`, {
    option: 'to',
    found,
    allowed,
    mend,
  });
}

/**
 * What a tool calls a parameter of a node, whose module it calls `theirs`. Of parameters that are of no module, as
 * class token and positions, the names are the same everywhere.
 */
export function nameIn(theirs: string, { name }: Pick<GraphNode, 'name'>, parameter: string): string {
  return parameter.startsWith(`${name}.`) ? theirs + parameter.slice(name.length) : parameter;
}

/** Parameters of modules that a tool's architecture lacks. */
export function absentFrom({ modules }: ToolNaming, { nodes }: GraphSpec): Set<string> {
  return new Set(nodes.flatMap(({ name, parameters = [] }) => (modules.has(name) ? [] : parameters)));
}

/** Modules with parameters, in the graph's order. */
export function modulesOf({ nodes }: GraphSpec): string[] {
  return nodes.filter(({ parameters = [] }) => parameters.length > 0).map(({ name }) => name);
}

/** The same names, but for the head, which becomes a sequence in the place of the classifier. */
export function ownNames(graph: GraphSpec, classifier: string | undefined): Map<string, string> {
  return new Map(
    modulesOf(graph).flatMap((name) =>
      !isProjection(name) ? [[name, name]] : classifier === undefined ? [] : [[name, name.replace('head', classifier)]],
    ),
  );
}
