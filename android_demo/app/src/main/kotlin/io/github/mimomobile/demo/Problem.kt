package io.github.mimomobile.demo

import io.github.mimomobile.runtime.MimoException
import java.io.IOException

/** What went wrong, as the user is told: [kind] has a title and advice in their language, [detail] is exact. */
data class Problem(val kind: Kind, val detail: String) {
    enum class Kind(val title: Int, val advice: Int) {
        MODEL(R.string.problem_model, R.string.advice_model),
        CRASHED(R.string.problem_crashed, R.string.advice_crashed),
        MEMORY(R.string.problem_memory, R.string.advice_memory),
        PROVIDER(R.string.problem_provider, R.string.advice_provider),
        CONTEXT(R.string.problem_context, R.string.advice_context),
        STATE(R.string.problem_state, R.string.advice_state),
        NUMERICS(R.string.problem_numerics, R.string.advice_numerics),
        INFERENCE(R.string.problem_inference, R.string.advice_inference),
        DAMAGED(R.string.problem_damaged, R.string.advice_damaged),
        SPACE(R.string.problem_space, R.string.advice_space),
        STORAGE(R.string.problem_storage, R.string.advice_storage),
    }
}

/** The user's view of an error that the app expects; anything else is a bug and is thrown on. */
fun problemOf(error: Throwable): Problem {
    val kind = when (error) {
        is MimoException.ModelLoad -> Problem.Kind.MODEL
        is MimoException.MemoryFull -> Problem.Kind.MEMORY
        is MimoException.ProviderUnavailable, is MimoException.Unsupported -> Problem.Kind.PROVIDER
        is MimoException.ContextFull -> Problem.Kind.CONTEXT
        is MimoException.WrongState -> Problem.Kind.STATE
        is MimoException.Numerics -> Problem.Kind.NUMERICS
        is MimoException.Inference -> Problem.Kind.INFERENCE
        is ProblemException -> return error.problem
        is IOException, is SecurityException -> Problem.Kind.STORAGE
        else -> throw error
    }
    return Problem(kind, error.message ?: error.javaClass.simpleName)
}

/** Carries a [Problem] that the app itself finds. */
class ProblemException(val problem: Problem) : Exception(problem.detail) {
    constructor(kind: Problem.Kind, detail: String) : this(Problem(kind, detail))
}
