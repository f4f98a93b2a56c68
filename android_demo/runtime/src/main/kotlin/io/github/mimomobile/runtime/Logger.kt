package io.github.mimomobile.runtime

/** How much a message of a [Logger] matters. */
public enum class LogLevel {
    /** What was found out and chosen. */
    INFO,

    /** Something is slower, or takes more memory or storage, than it should be; everything is right nevertheless. */
    WARNING,
}

/**
 * Takes what the engine tells beside its results, from any thread; for [EngineConfig.logger].
 *
 * ONNX Runtime's own warnings cannot be given to it, since its Java interface (1.29) has no way for that. While there is a
 * logger they go to logcat, under the tag `onnxruntime`, and on a computer to the standard error output.
 */
public fun interface Logger {
    /** Takes one message, a whole sentence. */
    public fun log(level: LogLevel, message: String)
}
