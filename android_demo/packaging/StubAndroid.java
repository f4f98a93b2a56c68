import com.android.builder.testing.MockableJarGenerator;
import java.io.File;
import java.nio.file.Files;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import java.util.zip.ZipOutputStream;
import org.objectweb.asm.ClassReader;
import org.objectweb.asm.ClassVisitor;
import org.objectweb.asm.ClassWriter;
import org.objectweb.asm.MethodVisitor;
import org.objectweb.asm.Opcodes;
import org.objectweb.asm.Type;

/**
 * Makes of Robolectric's android-all what the Android plugin for Gradle shows to unit tests, by the plugin's own code:
 * {@code StubAndroid ANDROID-ALL.jar OUTPUT.jar}. Each method throws "not mocked".
 *
 * <p>The plugin expects an SDK's android.jar, whose methods have no code to speak of. So it is taken out of android-all's,
 * and Java 17 can read the classes.
 */
final class StubAndroid {
    public static void main(String[] arguments) throws Exception {
        var output = new File(arguments[1]);
        var empty = Files.createTempFile("android", ".jar").toFile();
        try (var android = new ZipFile(arguments[0]); var zip = new ZipOutputStream(Files.newOutputStream(empty.toPath()))) {
            for (var entry : (Iterable<ZipEntry>) android.stream().map(ZipEntry.class::cast)::iterator) {
                if (entry.getName().matches("(android|org/json)/.*\\.class")) {
                    zip.putNextEntry(new ZipEntry(entry.getName()));
                    zip.write(withoutCode(new ClassReader(android.getInputStream(entry))));
                }
            }
            zip.finish();
            new MockableJarGenerator(/* returnDefaultValues= */ false).createMockableJar(empty, output);
        } finally {
            empty.delete();
        }
    }

    private static byte[] withoutCode(ClassReader reader) {
        var writer = new ClassWriter(0);
        reader.accept(new ClassVisitor(Opcodes.ASM9, writer) {
            @Override
            public void visit(int version, int access, String name, String signature, String parent, String[] interfaces) {
                super.visit(Math.min(version, Opcodes.V17), access, name, signature, parent, interfaces);
            }

            @Override
            public MethodVisitor visitMethod(int access, String name, String types, String signature, String[] thrown) {
                var method = super.visitMethod(access, name, types, signature, thrown);
                if ((access & (Opcodes.ACC_ABSTRACT | Opcodes.ACC_NATIVE)) == 0) {
                    method.visitCode();
                    if (name.equals("<clinit>")) {
                        method.visitInsn(Opcodes.RETURN);
                    } else {
                        method.visitInsn(Opcodes.ACONST_NULL);
                        method.visitInsn(Opcodes.ATHROW);
                    }
                    var words = Type.getArgumentsAndReturnSizes(types) >> 2;
                    method.visitMaxs(1, words);
                }
                return method;
            }
        }, ClassReader.SKIP_CODE);
        return writer.toByteArray();
    }
}
