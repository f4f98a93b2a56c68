package io.github.mimomobile.runtime.llama

import com.sun.jna.Callback
import com.sun.jna.Pointer
import com.sun.jna.Structure
import java.io.File
import kotlin.io.path.createTempDirectory
import org.junit.Assert.assertEquals
import org.junit.Test

/**
 * The structs, enums and functions that are declared here are those of llama.h, by a C compiler, for each of the headers:
 * those of Android's libraries, and those of the libraries that these tests run on. A mistake would be a silent crash.
 *
 * The compiler is this computer's; Android's for arm64 and x86_64 give these types the same sizes and boundaries.
 */
class StructsTest {
    private val structs = listOf(
        LlamaModelParams(), LlamaContextParams(), LlamaBatch(), LlamaTokenDataArray(), LlamaTokenData(),
    )
    private val names = mapOf(
        LlamaModelParams::class.java to "struct llama_model_params",
        LlamaContextParams::class.java to "struct llama_context_params",
        LlamaBatch::class.java to "struct llama_batch",
        LlamaTokenDataArray::class.java to "struct llama_token_data_array",
        LlamaTokenData::class.java to "struct llama_token_data",
    )
    private val enums = LlamaEnums::class.java.declaredFields.filter { it.type == Int::class.java }
        .associate { it.name to it.apply { isAccessible = true }.getInt(null) }

    /** The include folders, of Android's libraries and of this computer's. */
    private val headers = checkNotNull(System.getProperty("mimo.llama.headers")) {
        "-Dmimo.llama.headers=FOLDER:FOLDER is needed"
    }.split(File.pathSeparator)

    @Test
    fun `structs are laid out and enums counted as both headers say`() {
        assertEquals(2, headers.size)
        val known = structs.flatMap(::laidOut) + enums.map { (name, value) -> "$name $value" }
        for (folder in headers) assertEquals(folder, known, compiled(folder))
    }

    @Test
    fun `a record of tokens has the size that is read at once`() =
        assertEquals(LlamaTokenData.BYTES, LlamaTokenData().size().toLong())

    private fun laidOut(struct: Structure): List<String> {
        val offset = Structure::class.java.getDeclaredMethod("fieldOffset", String::class.java).apply { isAccessible = true }
        val fields = fields(struct).map { "$it ${offset.invoke(struct, it)} ${width(struct.javaClass.getField(it).type)}" }
        return listOf("${names[struct.javaClass]} ${struct.size()}") + fields
    }

    private fun fields(struct: Structure): List<String> {
        val order = Structure::class.java.getDeclaredMethod("getFieldOrder").apply { isAccessible = true }
        return (order.invoke(struct) as List<*>).map { it as String }
    }

    private fun width(type: Class<*>): Int = when (type) {
        Byte::class.java -> 1
        Int::class.java, Float::class.java -> 4
        Long::class.java, Pointer::class.java -> 8
        else -> error("$type")
    }

    /** What a program says that is compiled with the headers in [folder]; a wrong function does not compile. */
    private fun compiled(folder: String): List<String> {
        val work = createTempDirectory("structs").toFile()
        try {
            val (source, program) = Pair(File(work, "structs.c"), File(work, "structs"))
            source.writeText(program())
            val roots = listOf("include", "ggml/include", "").map { File(folder, it) }.filter { it.isDirectory }
            val flags = listOf("-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-Wno-unused")
            run(listOf("cc", "$source", "-o", "$program") + flags + roots.map { "-isystem$it" })
            return run(listOf("$program")).trim().lines()
        } finally {
            work.deleteRecursively()
        }
    }

    private fun program(): String = buildString {
        appendLine("#include <llama.h>\n#include <ggml-backend.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>")
        appendLine("#define FIELD(S, F) printf(#F \" %zu %zu\\n\", offsetof(S, F), sizeof(((S *)0)->F))")
        // In functions that are compiled and never called: arguments of other types and numbers are errors.
        (LlamaApi::class.java.methods + LlamaSamplerApi::class.java.methods).sortedBy { it.name }.forEach { method ->
            val values = method.parameterTypes.mapIndexed { index, type -> "${c(type)} a$index" }
            val call = "${method.name}(${method.parameterTypes.indices.joinToString { "a$it" }})"
            val same = if (method.returnType == Void.TYPE) "__builtin_types_compatible_p(__typeof__($call), void)" else
                "sizeof($call) == sizeof(${c(method.returnType)})"
            // Narrower and wider integers are errors, too; the compiler counts every bool among them.
            val isStrict = Byte::class.java !in method.parameterTypes
            appendLine("#pragma GCC diagnostic ${if (isStrict) "error" else "ignored"} \"-Wtraditional-conversion\"")
            appendLine("static inline void check_${method.name}(${values.joinToString().ifEmpty { "void" }}) {")
            appendLine("    _Static_assert($same, \"\"); $call; }")
        }
        appendLine("int main(void) {")
        for (struct in structs) {
            val name = names[struct.javaClass]
            // -Wextra: fewer values than fields are an error, and so are more.
            appendLine("    { $name all = {${fields(struct).joinToString { "0" }}}; (void)all; }")
            appendLine("    printf(\"$name %zu\\n\", sizeof($name));")
            fields(struct).forEach { appendLine("    FIELD($name, $it);") }
        }
        enums.keys.forEach { appendLine("    printf(\"$it %d\\n\", (int)$it);") }
        appendLine("    return 0;\n}")
    }

    private fun c(type: Class<*>): String = when {
        type == Byte::class.java -> "_Bool"
        type == Int::class.java -> "int32_t"
        type == Long::class.java -> "size_t"
        type == String::class.java -> "const char *"
        type == Pointer::class.java || Callback::class.java.isAssignableFrom(type) -> "void *"
        type.isArray -> "const char **"
        type == LlamaTokenDataArray::class.java -> "${names[type]} *"
        else -> checkNotNull(names[type.superclass]) { "$type" }
    }

    private fun run(command: List<String>): String {
        val process = ProcessBuilder(command).redirectErrorStream(true).start()
        val said = process.inputStream.bufferedReader().readText()
        assertEquals(said, 0, process.waitFor())
        return said
    }
}
