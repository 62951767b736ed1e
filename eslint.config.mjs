import tseslint from 'typescript-eslint';

export default tseslint.config(
  { ignores: ['dist/', 'build*/', 'dist-packages/', '.gpu/', 'node_modules/', 'runs/', 'coverage/', 'site/'] },
  ...tseslint.configs.recommended,
  {
    files: ['lib/**/*.ts'],
    languageOptions: { parserOptions: { project: './tsconfig.json' } },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': 'error',
      'max-lines': ['error', { max: 450, skipComments: true }],
    },
  },
);
