package io.github.mimomobile.runtime

/**
 * Of tests that look for rare faults by many repetitions: damaged files by the hundred, races, and more runs of a model through code
 * that lighter tests reach, too. Whether D8 and R8 kept and compiled that code rightly, these show already.
 */
interface Sweep
