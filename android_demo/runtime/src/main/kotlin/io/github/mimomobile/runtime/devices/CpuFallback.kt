package io.github.mimomobile.runtime.devices

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.MimoException

/**
 * Opens a model on the provider that is asked for, or on the CPU where that provider cannot compute it. In strict mode
 * the provider computes, or loading fails.
 *
 * @param model What messages call the model.
 * @param part What the provider must be able to run, for messages.
 * @param takesOwnMemory Whether the provider takes memory beside the CPU's, so that the CPU may do where that is full.
 * @param onProvider Opens the model there, when that is not the CPU; its [MimoException] says why that cannot be done.
 * @param onCpu Opens it on the CPU, which computes instead for the reason given; null when the CPU was asked for.
 * @throws MimoException.ProviderUnavailable In strict mode: the provider cannot compute it.
 */
internal inline fun <T> onProviderOrCpu(
    config: EngineConfig,
    model: String,
    part: String,
    takesOwnMemory: Boolean,
    onProvider: () -> T,
    onCpu: (fallback: String?) -> T,
): T {
    val provider = config.provider
    if (provider == ExecutionProvider.CPU) return onCpu(null)
    val problem = try {
        return onProvider()
    } catch (error: MimoException) {
        if (error is MimoException.MemoryFull && (config.strict || !takesOwnMemory)) throw error
        error
    }
    if (config.strict) {
        throw MimoException.ProviderUnavailable(
            "$model: $provider cannot run $part on this device (${problem.message}); take CPU, or set strict = false",
            problem,
        )
    }
    config.warn("$model: the CPU computes instead of $provider: ${problem.message}.")
    return onCpu(problem.message)
}
